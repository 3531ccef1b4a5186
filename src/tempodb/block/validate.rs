//! Checks a block as a whole, as far as that goes without decoding spans (block-format §10, checks 1 to 4).

use bytes::Bytes;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::schema::types::SchemaDescriptor;

use super::bloom::{BloomShard, shard_of};
use super::index::RowGroupIndex;
use super::meta::BlockMeta;
use super::schema::BlockSchema;
use crate::model::ids::TraceId;

/// Ids read at once.
const BATCH: usize = 4096;
/// Bytes after the footer: its length, and the magic.
const TAIL_BYTES: u64 = 8;
const MAGIC: &[u8] = b"PAR1";

/// The objects of a block.
#[derive(Debug, Clone)]
pub struct BlockObjects {
    pub meta: BlockMeta,
    pub data: Bytes,
    /// In order of their numbers.
    pub blooms: Vec<Bytes>,
    /// Old blocks have none.
    pub index: Option<Bytes>,
}

/// Returns what is wrong with a block, in words; nothing for a good one.
pub fn check_block(block: &BlockObjects) -> Vec<String> {
    let mut problems = Vec::new();
    check_sizes(block, &mut problems);
    match read_trace_ids(block.data.clone()) {
        Ok(row_groups) => check_ids(block, &row_groups, &mut problems),
        Err(failure) => problems.push(format!("trace ids cannot be read: {failure}")),
    }
    check_columns(block, &mut problems);
    problems
}

fn check_sizes(block: &BlockObjects, problems: &mut Vec<String>) {
    let (meta, data) = (&block.meta, &block.data);
    if meta.size_bytes != data.len() as u64 {
        problems.push(format!("meta says {} bytes, data.parquet has {}", meta.size_bytes, data.len()));
    }
    if !data.ends_with(MAGIC) {
        problems.push("data.parquet does not end with PAR1".to_owned());
    } else if let Some((_, tail)) = data.split_last_chunk::<{ TAIL_BYTES as usize }>() {
        let footer = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        if footer != meta.footer_size_bytes {
            problems.push(format!("meta says a footer of {} bytes, data.parquet {footer}", meta.footer_size_bytes));
        }
    }
    if block.blooms.len() != super::bloom::effective_shards(meta.bloom_shards) as usize {
        problems.push(format!("meta says {} bloom shards, there are {}", meta.bloom_shards, block.blooms.len()));
    }
}

fn check_columns(block: &BlockObjects, problems: &mut Vec<String>) {
    let Ok(file) = SerializedFileReader::new(block.data.clone()) else { return };
    problems.extend(column_problem(file.metadata().file_metadata().schema_descr(), &block.meta));
}

/// Compares the columns of a file with those that its meta calls for.
pub(super) fn column_problem(found: &SchemaDescriptor, meta: &BlockMeta) -> Option<String> {
    let Ok(version) = meta.version() else {
        return Some(format!("{} is no version of which the columns are known", meta.format));
    };
    let expected = BlockSchema::new(version, &meta.dedicated_columns);
    let describe = |column: &parquet::schema::types::ColumnDescriptor| {
        let levels = (column.max_def_level(), column.max_rep_level());
        (column.path().string(), column.physical_type(), column.converted_type(), levels)
    };
    let expected: Vec<_> = expected.descriptor().columns().iter().map(|column| describe(column)).collect();
    let found: Vec<_> = found.columns().iter().map(|column| describe(column)).collect();
    let at = (0..expected.len().max(found.len())).find(|&at| expected.get(at) != found.get(at))?;
    Some(format!("column {at} should be {:?} and is {:?}", expected.get(at), found.get(at)))
}

fn check_ids(block: &BlockObjects, row_groups: &[Vec<TraceId>], problems: &mut Vec<String>) {
    let ids: Vec<TraceId> = row_groups.concat();
    if block.meta.total_objects != ids.len() as i64 {
        problems.push(format!("meta says {} traces, data.parquet has {}", block.meta.total_objects, ids.len()));
    }
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        problems.push(format!("trace {} follows {}", pair[1], pair[0]));
    }
    let last_ids = row_groups.iter().filter_map(|group| group.last().copied()).collect();
    if let Some(index) = &block.index
        && RowGroupIndex::from_json(index).ok() != Some(RowGroupIndex { last_ids })
    {
        problems.push("the index does not hold the last trace id of each row group".to_owned());
    }
    let blooms: Vec<_> = block.blooms.iter().map(|bytes| BloomShard::decode(bytes).ok()).collect();
    let is_listed = |id: TraceId| {
        let shard = blooms.get(shard_of(id, block.meta.bloom_shards) as usize);
        shard.and_then(Option::as_ref).is_some_and(|shard| shard.may_contain(id))
    };
    if let Some(missing) = ids.iter().find(|id| !is_listed(**id)) {
        problems.push(format!("the bloom filter lacks trace {missing}"));
    }
}

/// Returns the trace ids of each row group. The column is never compressed, so any block can be read without its codecs.
fn read_trace_ids(data: Bytes) -> parquet::errors::Result<Vec<Vec<TraceId>>> {
    let file = SerializedFileReader::new(data)?;
    let mut row_groups = Vec::new();
    for group in 0..file.num_row_groups() {
        let ColumnReader::ByteArrayColumnReader(mut column) = file.get_row_group(group)?.get_column_reader(0)? else {
            return Err(parquet::errors::ParquetError::General("column 0 holds no byte arrays".to_owned()));
        };
        let mut ids: Vec<ByteArray> = Vec::new();
        while column.read_records(BATCH, None, None, &mut ids)?.0 > 0 {}
        row_groups.push(ids.iter().map(|id| TraceId::from_bytes(id.data())).collect());
    }
    Ok(row_groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_block(folder: &str) -> BlockObjects {
        let read = |name: &str| Bytes::from(std::fs::read(format!("testdata/blocks/{folder}/{name}")).unwrap());
        let meta = BlockMeta::from_json(&read("meta.json")).unwrap();
        let blooms = (0..meta.bloom_shards).map(|shard| read(&format!("bloom-{shard}"))).collect();
        BlockObjects { data: read("data.parquet"), index: Some(read("index")), blooms, meta }
    }

    #[test]
    fn real_blocks_are_good() {
        for folder in [
            "vParquet3/alpha/700269e9-ddd1-45ae-bf40-619fc593fdff",
            "vParquet3/beta/235cddd3-0a73-4b79-a90c-a03175c4a087",
            "vParquet4/alpha/e1f08feb-f2e1-4f80-9f0d-f8b63695ebc4",
            "vParquet4/beta/5613c934-c130-4eda-93d3-bb298aea5b28",
            "vParquet4-compacted/beta/2babd2a3-7a85-488b-926b-5bd62f701a16",
            "vParquet5/alpha/a0a76807-e24a-4b98-bcfd-0e2a55737f75",
            "vParquet5/alpha/ddf5ebac-38d4-46dd-b64c-c75f25473644",
            "vParquet5/beta/d99333a4-b0f0-40ac-a8f6-0908cd6aa039",
            "vParquet5-compacted/alpha/9c58a506-f69c-4b0c-9c85-1e7a2309432f",
        ] {
            assert_eq!(check_block(&read_block(folder)), Vec::<String>::new(), "{folder}");
        }
    }

    #[test]
    fn faults_are_named() {
        let good = read_block("vParquet5/beta/d99333a4-b0f0-40ac-a8f6-0908cd6aa039");
        let problems = |change: fn(&mut BlockObjects)| {
            let mut block = good.clone();
            change(&mut block);
            check_block(&block).join("; ")
        };
        let size = problems(|block| block.meta.size_bytes = 1);
        assert!(size.starts_with("meta says 1 bytes"), "{size}");
        let footer = problems(|block| block.meta.footer_size_bytes = 1);
        assert!(footer.starts_with("meta says a footer of 1 bytes"), "{footer}");
        let rows = problems(|block| block.meta.total_objects = 1);
        assert_eq!(rows, "meta says 1 traces, data.parquet has 23");
        let index = problems(|block| block.index = Some(Bytes::from_static(b"{\"rowGroups\":[]}")));
        assert_eq!(index, "the index does not hold the last trace id of each row group");
        let bloom = problems(|block| block.blooms[0] = Bytes::from(BloomShard::decode(&block.blooms[0]).unwrap().emptied().encode()));
        assert!(bloom.starts_with("the bloom filter lacks trace "), "{bloom}");
        let columns = problems(|block| block.meta.dedicated_columns = block.meta.dedicated_columns.iter().skip(1).cloned().collect());
        assert!(columns.starts_with("column "), "{columns}");
        let cut = problems(|block| block.data.truncate(100));
        assert!(cut.contains("trace ids cannot be read"), "{cut}");
    }
}
