//! Tests of the selector.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::tempodb::block::dedicated::{DedicatedColumn, DedicatedKind, DedicatedScope};
use crate::tempodb::block::meta::unset_time;

const HOUR: i64 = 3600;
/// 2026-11-27T12:00:00Z, a whole hour.
const NOW: i64 = 1_795_780_800;

#[derive(Debug, Clone)]
struct Block {
    hours_ago: i64,
    level: u32,
    objects: i64,
    size: u64,
    factor: u32,
    format: &'static str,
    columns: Vec<DedicatedColumn>,
}

impl Default for Block {
    fn default() -> Self {
        Self { hours_ago: 2, level: 0, objects: 10, size: 1000, factor: 1, format: "vParquet5", columns: Vec::new() }
    }
}

fn meta(block: &Block) -> Arc<BlockMeta> {
    let end_time = Timestamp::from_second(NOW - block.hours_ago * HOUR + 1).unwrap();
    Arc::new(BlockMeta {
        format: block.format.to_owned(),
        block_id: BlockId::random(),
        tenant_id: "t".to_owned(),
        start_time: unset_time(),
        end_time,
        total_objects: block.objects,
        size_bytes: block.size,
        compaction_level: block.level,
        index_page_size: 0,
        total_records: 1,
        bloom_shards: 1,
        footer_size_bytes: 0,
        dedicated_columns: block.columns.clone().into(),
        replication_factor: block.factor,
    })
}

fn selected(blocks: &[Block], settings: &SelectorSettings) -> Vec<Vec<usize>> {
    let metas: Vec<_> = blocks.iter().map(meta).collect();
    positions(&metas, &select_all(&metas, settings))
}

fn select_all(metas: &[Arc<BlockMeta>], settings: &SelectorSettings) -> Vec<Stripe> {
    select(&TenantId::parse("t").unwrap(), metas, settings, Timestamp::from_second(NOW).unwrap(), |_| false)
}

fn positions(metas: &[Arc<BlockMeta>], stripes: &[Stripe]) -> Vec<Vec<usize>> {
    let position = |block: &Arc<BlockMeta>| metas.iter().position(|meta| meta.block_id == block.block_id).unwrap();
    stripes.iter().map(|stripe| stripe.blocks.iter().map(position).collect()).collect()
}

fn block() -> Block {
    Block::default()
}

#[test]
fn two_blocks_of_a_window_level_and_factor_meet() {
    let two = [block(), block()];
    assert_eq!(selected(&two, &SelectorSettings::default()), [[0, 1]]);
    let apart = [
        Block { hours_ago: 3, ..block() },
        Block { level: 1, ..block() },
        Block { factor: 3, ..block() },
        Block { format: "vParquet4", ..block() },
        Block { columns: vec![DedicatedColumn::new(DedicatedScope::Span, "a", DedicatedKind::String)], ..block() },
    ];
    for other in apart {
        assert_eq!(selected(&[block(), other.clone()], &SelectorSettings::default()), Vec::<Vec<usize>>::new(), "{other:?}");
    }
}

#[test]
fn blocks_that_cannot_be_compacted_are_left_alone() {
    for format in ["v2", "vParquet2", "vParquet5-preview3", "vparquet5"] {
        assert!(selected(&[Block { format, ..block() }, Block { format, ..block() }], &SelectorSettings::default()).is_empty(), "{format}");
    }
    for format in ["vParquet3", "vParquet4"] {
        assert_eq!(selected(&[Block { format, ..block() }, Block { format, ..block() }], &SelectorSettings::default()), [[0, 1]]);
    }
    let settings = SelectorSettings { max_level: 2, ..SelectorSettings::default() };
    for (level, is_selected) in [(1, true), (2, false), (3, false)] {
        assert_eq!(!selected(&[Block { level, ..block() }, Block { level, ..block() }], &settings).is_empty(), is_selected);
    }
}

#[test]
fn the_window_that_changes_regime_is_left_alone() {
    let pair = |hours_ago| selected(&[Block { hours_ago, ..block() }, Block { hours_ago, ..block() }], &SelectorSettings::default());
    assert_eq!(pair(23), [[0, 1]]);
    assert!(pair(24).is_empty());
    assert_eq!(pair(25), [[0, 1]]);
}

#[test]
fn old_windows_mix_levels_and_recent_ones_do_not() {
    let old = [Block { hours_ago: 30, level: 1, ..block() }, Block { hours_ago: 30, ..block() }];
    assert_eq!(selected(&old, &SelectorSettings::default()), [[1, 0]], "ordered by level");
}

#[test]
fn recent_windows_come_first_and_there_the_lowest_level() {
    let blocks = [
        Block { hours_ago: 40, ..block() },
        Block { hours_ago: 40, ..block() },
        Block { hours_ago: 1, level: 1, ..block() },
        Block { hours_ago: 1, level: 1, ..block() },
        Block { hours_ago: 5, ..block() },
        Block { hours_ago: 5, ..block() },
        Block { hours_ago: 3, ..block() },
        Block { hours_ago: 3, ..block() },
        Block { hours_ago: -2, ..block() },
        Block { hours_ago: -2, ..block() },
    ];
    assert_eq!(selected(&blocks, &SelectorSettings::default()), [[8, 9], [6, 7], [4, 5], [2, 3], [0, 1]]);
}

#[test]
fn small_blocks_go_first_and_bounds_hold() {
    let sized = |objects| Block { objects, ..block() };
    let blocks = [sized(300), sized(5), sized(40), sized(6), sized(7), sized(100)];
    assert_eq!(selected(&blocks, &SelectorSettings::default()), [[1, 3, 4, 2, 5, 0]]);
    let four = SelectorSettings { max_input_blocks: 4, ..SelectorSettings::default() };
    assert_eq!(selected(&blocks, &four), [vec![1, 3, 4, 2], vec![5, 0]]);
    let settings = SelectorSettings { max_objects: 18, ..SelectorSettings::default() };
    assert_eq!(selected(&blocks, &settings), [[1, 3, 4]]);
    let settings = SelectorSettings { max_bytes: 2999, ..SelectorSettings::default() };
    assert_eq!(selected(&blocks, &settings), [[1, 3], [4, 2], [5, 0]]);
    let settings = SelectorSettings { min_input_blocks: 3, ..four };
    assert_eq!(selected(&blocks, &settings), [[1, 3, 4, 2]], "the pair that is left is consumed and skipped");
}

#[test]
fn hashes_are_those_of_the_compatible_system() {
    let (window, old_window) = ((NOW - 2 * HOUR) / HOUR, (NOW - 40 * HOUR) / HOUR);
    let hash = |block: Block| select_all(&[meta(&block), meta(&block)], &SelectorSettings::default()).remove(0).hash;
    assert_eq!(hash(Block { level: 2, factor: 3, ..block() }), format!("t-2-{window}-3"));
    assert_eq!(hash(Block { hours_ago: 40, ..block() }), format!("t-{old_window}-1"));
}

#[test]
fn busy_blocks_do_not_take_part() {
    let metas: Vec<_> = [block(), block(), block()].iter().map(meta).collect();
    let busy = metas[1].block_id;
    let now = Timestamp::from_second(NOW).unwrap();
    let stripes = select(&TenantId::parse("t").unwrap(), &metas, &SelectorSettings::default(), now, |id| id == busy);
    assert_eq!(positions(&metas, &stripes), [[0, 2]]);
}

fn arb_blocks() -> impl Strategy<Value = Vec<Block>> {
    let columns = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![DedicatedColumn::new(DedicatedScope::Span, "a", DedicatedKind::String)]),
    ];
    let format = prop_oneof![4 => Just("vParquet5"), 2 => Just("vParquet4"), 1 => Just("v2"), 1 => Just("vParquet5-preview1")];
    let block = (-2_i64..50, 0_u32..12, 0_i64..1000, 0_u64..1000, prop_oneof![Just(1_u32), Just(3)], format, columns);
    let block = block.prop_map(|(hours_ago, level, objects, size, factor, format, columns)| Block {
        hours_ago: hours_ago / 4 * 4,
        level: level / 4,
        objects,
        size,
        factor,
        format,
        columns,
    });
    prop::collection::vec(block, 0..60)
}

proptest! {
    #[test]
    fn stripes_are_alike_bounded_and_disjoint(blocks in arb_blocks(), min in 2_usize..4, more in 0_usize..4, max_objects in 0_u64..3000, max_bytes in 0_u64..3000) {
        let settings = SelectorSettings {
            max_objects, max_bytes, min_input_blocks: min, max_input_blocks: min + more, max_level: 2, ..SelectorSettings::default()
        };
        let metas: Vec<_> = blocks.iter().map(meta).collect();
        let stripes = select_all(&metas, &settings);
        let mut seen = HashSet::new();
        for stripe in &stripes {
            prop_assert!((settings.min_input_blocks..=settings.max_input_blocks).contains(&stripe.blocks.len()));
            prop_assert!(stripe.blocks.iter().map(|meta| meta.total_objects as u64).sum::<u64>() <= max_objects);
            prop_assert!(stripe.size_bytes() <= max_bytes);
            let first = &stripe.blocks[0];
            let window = |meta: &BlockMeta| meta.end_time.as_second() / HOUR;
            for meta in &stripe.blocks {
                prop_assert!(seen.insert(meta.block_id));
                prop_assert!(meta.version().is_ok() && meta.compaction_level < 2);
                prop_assert_eq!(window(meta), window(first));
                prop_assert_ne!(window(meta), (NOW - 24 * HOUR) / HOUR);
                prop_assert_eq!(meta.replication_factor, first.replication_factor);
                prop_assert_eq!(&meta.format, &first.format);
                prop_assert_eq!(&meta.dedicated_columns, &first.dedicated_columns);
                prop_assert!(window(meta) < NOW / HOUR - 24 || meta.compaction_level == first.compaction_level);
            }
        }
    }
}
