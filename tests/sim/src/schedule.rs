//! One schedule, from the first start to the verdict.

use crate::faults::{AFTERMATH, CALM, PEACE, STORM};
use crate::hits::Hits;
use crate::node::{last_panic, quiet_panics};
use crate::world::{Event, World};
use raftyard_raft::{GroupId, Instant, LogIndex, ReplicaId, Term};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A schedule in which every promise was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Hash of everything that happened, in order.
    pub trace: u64,
    /// How often what happened.
    pub hits: Hits,
    /// What happened, one event a line; empty unless it was asked for.
    pub told: Vec<String>,
}

/// A promise was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The schedule.
    pub seed: u64,
    /// Which promise, and how.
    pub what: String,
    /// What happened before, one event a line; empty unless it was asked for.
    pub told: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

/// Lives through the schedule of a seed. With `listen` a violation tells what happened before it, which takes longer.
///
/// # Errors
/// The first promise that was broken, or a panic.
pub fn run(seed: u64, listen: bool) -> Result<Report, Violation> {
    quiet_panics();
    let mut world: Option<World> = None;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        // Kept outside, so that what it told outlives a panic.
        world.insert(World::new(seed, listen)?).live()
    }));
    let what = match lived {
        Ok(Ok(())) => {
            let world = world.expect("it lived");
            let told = world.told.map(Vec::from).unwrap_or_default();
            return Ok(Report { trace: world.trace, hits: world.hits, told });
        }
        Ok(Err(what)) => what,
        Err(_) => format!("a panic: {}", last_panic().unwrap_or_default()),
    };
    let told = world.and_then(|world| world.told).map(Vec::from).unwrap_or_default();
    Err(Violation { seed, what, told })
}

impl World {
    /// Load and faults, then calm until everything has come right, then peace.
    fn live(&mut self) -> Result<(), String> {
        for client in 0..self.clients.count() {
            let pause = self.rng.micros(1_000, 300_000);
            self.after(pause, Event::Client { client });
        }
        self.after(Duration::from_millis(300), Event::Fault);
        self.after(Duration::from_millis(400), Event::Operator);
        self.run(Instant(0).after(STORM))?;
        self.end_storm()?;
        let end = self.now.after(CALM);
        // What the storm left on its way, and connections that rest before they are dialled again, end in this time.
        self.run(self.now.after(AFTERMATH))?;
        let mut last = Err("not looked at yet".to_owned());
        while last.is_err() && self.now < end {
            let until = self.now.after(Duration::from_millis(100));
            self.run(until)?;
            last = self.came_right();
        }
        last.map_err(|why| format!("did not come right in {CALM:?} of calm: {why}"))?;
        self.tell(|_| "everything came right".to_owned());
        let leaders = self.leaders();
        self.run(self.now.after(PEACE))?;
        if self.leaders() != leaders {
            let now = self.leaders();
            return Err(format!("a leader that everybody hears was disturbed: {leaders:?} became {now:?}"));
        }
        self.judge()
    }

    fn leaders(&self) -> Vec<(GroupId, Option<(ReplicaId, Term)>)> {
        let groups = self.operator.groups().into_iter();
        groups.map(|group| (group, self.leader(group).map(|(_, raft)| (raft.replica(), raft.term())))).collect()
    }

    /// Nobody waits, and of every group all members have and know all that their leader has.
    fn came_right(&self) -> Result<(), String> {
        if let Some(waiting) = self.clients.waiting() {
            return Err(format!("{waiting} has no answer"));
        }
        if self.operator.waits() {
            return Err("the operator waits for an answer".to_owned());
        }
        if let Some(node) = self.nodes.iter().find(|node| node.core.is_none() || !node.ailing.is_empty()) {
            return Err(format!("node {} is down, or a group of it", node.id));
        }
        for group in self.operator.groups() {
            let Some((_, leader)) = self.leader(group) else { return Err(format!("group {group} has no leader")) };
            let configuration = leader.configuration();
            if configuration.is_joint() || leader.configuration_index() > leader.commit() {
                return Err(format!("group {group} is amid a change of members"));
            }
            for member in configuration.members() {
                let node = member.node.0 as usize - 1;
                if self.nodes[node].lost {
                    return Err(format!("group {group} has a member on node {}, whose disk is lost", member.node));
                }
                let found = self.replicas(group).find(|(_, raft)| raft.replica() == member.replica);
                let (_, raft) = found.ok_or_else(|| format!("group {group} lacks replica {}", member.replica))?;
                let same = raft.last() == leader.last() && raft.leader() == leader.leader();
                if !same || raft.applied() != leader.last().index {
                    return Err(format!("group {group}: replica {} lags", member.replica));
                }
            }
        }
        Ok(())
    }

    fn judge(&mut self) -> Result<(), String> {
        if self.nodes.iter().any(|node| node.lost) {
            self.hits.hit("lost node replaced");
        }
        for group in self.operator.groups() {
            let (_, leader) = self.leader(group).expect("it was there a moment ago");
            let nodes: Vec<usize> =
                leader.configuration().members().iter().map(|member| member.node.0 as usize - 1).collect();
            assert!(leader.applied() > LogIndex(0), "a leader has committed in its term");
            let applied: Vec<Vec<u64>> = nodes
                .into_iter()
                .map(|node| self.nodes[node].machines.look().applied.get(&group).cloned().unwrap_or_default())
                .collect();
            self.checks.converged(group, &applied)?;
        }
        self.clients.history.check().map_err(|violation| violation.to_string())
    }
}
