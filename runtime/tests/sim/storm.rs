//! What clients do, what goes wrong, and the calm after it in which everything must come right.

use crate::world::{Event, World};
use bytes::Bytes;
use raftyard_raft::{GroupId, Instant, Role};
use raftyard_runtime::core::port::Input;
use raftyard_runtime::mail::Mail;
use std::time::Duration;

/// Proposals a simulated client waits for at most.
const PROPOSALS_MAX: usize = 24;

impl World {
    /// Load and faults for `storm`, then calm until everything has come right, for `calm` at most.
    pub(crate) fn live(&mut self, storm: Duration, calm: Duration) -> Result<(), String> {
        self.after(Duration::from_millis(1), Event::Client);
        self.after(Duration::from_millis(300), Event::Fault);
        self.run(Instant(0).after(storm))?;
        self.stormy = false;
        self.unblock();
        for node in 0..self.nodes.len() {
            if self.nodes[node].core.is_none() {
                self.start(node);
            }
        }
        let end = self.now.after(calm);
        let mut last = Err("not looked at yet".to_owned());
        while self.now < end {
            let until = self.now.after(Duration::from_millis(100));
            self.run(until)?;
            last = self.came_right();
            if last.is_ok() {
                return self.judge();
            }
        }
        last.map_err(|why| format!("did not come right in {calm:?} of calm: {why}"))
    }

    /// Every group has a leader, nobody waits, all replicas applied all that is in their logs.
    fn came_right(&self) -> Result<(), String> {
        if let Some((operation, group, _)) = self.proposals.first() {
            return Err(format!("operation {operation} of group {group} has no answer"));
        }
        for group in (1..=self.shape.groups).map(GroupId) {
            let replicas: Vec<_> = self
                .nodes
                .iter()
                .filter_map(|node| node.core.as_ref()?.replicas().find(|raft| raft.group() == group))
                .collect();
            if replicas.len() != self.nodes.len() {
                return Err(format!("group {group} lacks replicas"));
            }
            if !replicas.iter().any(|raft| raft.role() == Role::Leader) {
                return Err(format!("group {group} has no leader"));
            }
            let last = replicas[0].last();
            if let Some(raft) = replicas.iter().find(|raft| raft.last() != last || raft.applied() != last.index) {
                return Err(format!("group {group}: replica {} lags", raft.replica()));
            }
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        for group in (1..=self.shape.groups).map(GroupId) {
            let applied: Vec<Vec<u64>> = self
                .nodes
                .iter()
                .map(|node| {
                    node.applied.lock().expect("no panic while it is held").get(&group).cloned().unwrap_or_default()
                })
                .collect();
            self.checks.converged(group, &applied)?;
        }
        Ok(())
    }

    pub(crate) fn client(&mut self) -> Result<(), String> {
        if !self.stormy {
            return Ok(());
        }
        for _ in 0..self.rng.below(4) {
            if self.proposals.len() < PROPOSALS_MAX {
                self.propose();
            }
        }
        let pause = self.rng.micros(50, 6_000);
        self.after(pause, Event::Client);
        Ok(())
    }

    fn propose(&mut self) {
        let group = GroupId(self.rng.below(self.shape.groups) + 1);
        // Mostly to who leads; sometimes to anybody, who must refuse.
        let leads = |node: &crate::node::SimNode| {
            let mut replicas = node.core.iter().flat_map(|core| core.replicas());
            replicas.any(|raft| raft.group() == group && raft.role() == Role::Leader)
        };
        let leaders: Vec<usize> = (0..self.nodes.len()).filter(|&node| leads(&self.nodes[node])).collect();
        let anybody = self.rng.below(self.nodes.len() as u64) as usize;
        let node = if leaders.is_empty() || self.rng.chance(5) { anybody } else { *self.rng.pick(&leaders) };
        if self.nodes[node].core.is_none() {
            return;
        }
        let operation = self.next_operation;
        self.next_operation += 1;
        let mut data = operation.to_le_bytes().to_vec();
        let padding = if self.rng.chance(3) { 3_000 } else { self.rng.below(100) };
        data.resize(8 + padding as usize, operation as u8);
        let (reply, receiver) = oneshot::channel();
        self.proposals.push((operation, group, receiver));
        self.note(&[operation, group.0, node as u64]);
        self.input(node, Input::Mail(Mail::Propose { group, data: Bytes::from(data), reply }));
    }

    pub(crate) fn fault(&mut self) {
        if !self.stormy {
            return;
        }
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        match self.rng.below(100) {
            0..20 => self.crash(node),
            20..23 => (0..self.nodes.len()).for_each(|node| self.crash(node)),
            23..55 => {
                let open = self.net.open();
                if !open.is_empty() {
                    self.hits.resets += 1;
                    let connection = *self.rng.pick(&open);
                    self.reset(connection);
                }
            }
            55..75 => self.partition(node),
            75..85 => {
                self.hits.stalls += 1;
                self.nodes[node].stalled_until = self.now.after(self.rng.micros(10_000, 800_000));
            }
            _ => self.unblock(),
        }
        let pause = self.rng.micros(20_000, 400_000);
        self.after(pause, Event::Fault);
    }

    fn crash(&mut self, node: usize) {
        if self.nodes[node].core.is_none() {
            return;
        }
        self.hits.crashes += 1;
        let connections = self.net.of_node(node);
        self.nodes[node].crash(&mut self.rng);
        for connection in connections {
            self.reset(connection);
        }
        let pause = self.rng.micros(1_000, 900_000);
        self.after(pause, Event::Restart { node });
    }

    /// Blocks one way, or both, between a node and another, or all others.
    fn partition(&mut self, node: usize) {
        self.hits.partitions += 1;
        let all = self.rng.chance(40);
        let both_ways = self.rng.chance(60);
        let other = self.rng.below(self.nodes.len() as u64) as usize;
        for peer in (0..self.nodes.len()).filter(|&peer| peer != node && (all || peer == other)) {
            self.net.blocked.insert((node, peer));
            if both_ways {
                self.net.blocked.insert((peer, node));
            }
        }
    }
}
