//! Which stripe of which tenant is merged next.
//!
//! The tenant with the most to do comes first, but every fourth job goes to the one that waited longest, so that a large tenant whose blocks
//! arrive faster than they are merged leaves something for the others.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use crate::model::ids::TenantId;
use crate::tempodb::block::meta::BlockId;

/// One job in so many goes to the tenant that waited longest.
const FAIR_SHARE: u64 = 4;

/// What one tenant has to merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backlog {
    pub(super) tenant: TenantId,
    /// Live blocks.
    pub(super) blocks: usize,
    /// Inputs of each job, most urgent first.
    pub(super) stripes: VecDeque<Vec<BlockId>>,
}

impl Backlog {
    /// Blocks that wait.
    pub(super) fn outstanding(&self) -> usize {
        self.stripes.iter().map(Vec::len).sum()
    }
}

/// Stripes of all tenants, as they were found at one moment.
#[derive(Debug, Default)]
pub(super) struct Plan {
    tenants: Vec<Turn>,
    max_jobs_per_tenant: usize,
}

#[derive(Debug)]
struct Turn {
    backlog: Backlog,
    outstanding: usize,
    jobs: usize,
}

/// Which tenants had a job when; survives plans.
#[derive(Debug, Default)]
pub(super) struct Fairness {
    jobs: u64,
    last_job: HashMap<TenantId, u64>,
}

impl Plan {
    pub(super) fn new(backlogs: Vec<Backlog>, max_jobs_per_tenant: usize) -> Self {
        let turns = backlogs.into_iter().filter(|backlog| !backlog.stripes.is_empty());
        let turns = turns.map(|backlog| Turn { outstanding: backlog.outstanding(), backlog, jobs: 0 });
        Self { tenants: turns.collect(), max_jobs_per_tenant }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// Takes the next stripe. Also returns whether the tenant's turn ends with it.
    pub(super) fn next(&mut self, fairness: &mut Fairness) -> Option<(TenantId, Vec<BlockId>, bool)> {
        let heaviest = |(_, turn): &(usize, &Turn)| (turn.backlog.blocks + turn.outstanding, Reverse(turn.backlog.tenant.clone()));
        let waiting =
            |(_, turn): &(usize, &Turn)| (fairness.last_job.get(&turn.backlog.tenant).copied().unwrap_or(0), turn.backlog.tenant.clone());
        let turns = self.tenants.iter().enumerate();
        let is_fair = fairness.jobs % FAIR_SHARE == FAIR_SHARE - 1;
        let (index, _) = if is_fair { turns.min_by_key(waiting) } else { turns.max_by_key(heaviest) }?;
        let turn = &mut self.tenants[index];
        let stripe = turn.backlog.stripes.pop_front()?;
        turn.outstanding = turn.outstanding.saturating_sub(stripe.len());
        turn.jobs += 1;
        fairness.jobs += 1;
        let tenant = turn.backlog.tenant.clone();
        fairness.last_job.insert(tenant.clone(), fairness.jobs);
        let is_over = turn.backlog.stripes.is_empty() || turn.jobs >= self.max_jobs_per_tenant;
        if is_over {
            self.tenants.swap_remove(index);
        }
        Some((tenant, stripe, is_over))
    }
}

impl Fairness {
    /// Forgets tenants that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(&TenantId) -> bool) {
        self.last_job.retain(|tenant, _| is_there(tenant));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(tenant: &str, blocks: usize, stripes: usize) -> Backlog {
        let stripes = (0..stripes).map(|_| vec![BlockId::random(), BlockId::random()]).collect();
        Backlog { tenant: TenantId::parse(tenant).unwrap(), blocks, stripes }
    }

    fn order(plan: &mut Plan, fairness: &mut Fairness) -> Vec<String> {
        std::iter::from_fn(|| plan.next(fairness)).map(|(tenant, ..)| tenant.to_string()).collect()
    }

    #[test]
    fn the_largest_comes_first_and_small_ones_get_their_share() {
        let mut fairness = Fairness::default();
        let mut plan = Plan::new(vec![backlog("small", 2, 2), backlog("big", 1_000, 9), backlog("none", 5, 0)], 100);
        let order = order(&mut plan, &mut fairness);
        assert_eq!(order, ["big", "big", "big", "small", "big", "big", "big", "small", "big", "big", "big"]);
    }

    #[test]
    fn shares_survive_a_new_plan() {
        let mut fairness = Fairness::default();
        let mut small = 0;
        for _plan in 0..40 {
            let mut plan = Plan::new(vec![backlog("small", 2, 1), backlog("big", 1_000, 9)], 100);
            let (tenant, ..) = plan.next(&mut fairness).unwrap();
            small += usize::from(tenant.as_str() == "small");
        }
        assert_eq!(small, 10);
    }

    #[test]
    fn a_turn_ends_at_the_limit() {
        let mut plan = Plan::new(vec![backlog("big", 1_000, 9), backlog("small", 1, 1)], 3);
        let mut fairness = Fairness::default();
        let over: Vec<_> = std::iter::from_fn(|| plan.next(&mut fairness)).map(|(tenant, _, over)| (tenant.to_string(), over)).collect();
        let pair = |tenant: &str, over| (tenant.to_owned(), over);
        assert_eq!(over, [pair("big", false), pair("big", false), pair("big", true), pair("small", true)]);
        assert!(plan.is_empty());
    }
}
