//! Reads are no older than their request: what was committed anywhere when a read began, it sees.

use super::events::{Event, Totals};
use crate::cluster::Cluster;
use raftyard_raft::{LogIndex, ReadError, ReadState, ReadTicket, Role};

/// Most reads that are followed at a time.
const READS_MAX: usize = 12;

/// A read that waits to know its index.
#[derive(Debug)]
struct Read {
    at: usize,
    ticket: ReadTicket,
    /// The highest index known to be committed anywhere when it began.
    committed: LogIndex,
    on_leader: bool,
}

/// All reads under way.
#[derive(Debug, Default)]
pub(crate) struct Reads(Vec<Read>);

impl Reads {
    /// Begins a read at a replica, which may refuse it.
    pub(crate) fn begin(&mut self, cluster: &mut Cluster, at: usize) {
        let (now, committed) = (cluster.time(at), committed(cluster));
        let Some(raft) = cluster.raft(at).filter(|_| self.0.len() < READS_MAX) else { return };
        let on_leader = raft.role() == Role::Leader;
        if let Ok(ticket) = raft.read_index(now) {
            self.0.push(Read { at, ticket, committed, on_leader });
        }
    }

    /// Who asked a replica that went down waits no more.
    pub(crate) fn forget(&mut self, at: usize) {
        self.0.retain(|read| read.at != at);
    }

    /// Looks what became of the reads at those that are up.
    pub(crate) fn check(&mut self, cluster: &Cluster, totals: &mut Totals) {
        self.0.retain(|read| {
            let raft = cluster.replica(read.at).raft.as_ref().expect("its reads are forgotten when it goes down");
            match raft.read_state(&read.ticket) {
                ReadState::Waiting => return true,
                ReadState::Lost => totals.add(Event::ReadLost, 1),
                ReadState::Ready(index) => {
                    assert!(index >= read.committed, "a stale read: it may be served at {index}, {read:?}");
                    totals.add(if read.on_leader { Event::ReadOnLeader } else { Event::ReadOnFollower }, 1);
                }
            }
            false
        });
    }

    /// Whether a read at `at` still waits.
    pub(crate) fn waits(&self, at: usize) -> bool {
        self.0.iter().any(|read| read.at == at)
    }
}

/// Tries to read by lease at every leader, as often as anything happens: whoever may, sees all that is committed. Says
/// who may.
pub(crate) fn by_lease(cluster: &Cluster, totals: &mut Totals) -> Vec<usize> {
    let mut holders = Vec::new();
    for id in cluster.ids() {
        let Some(raft) = cluster.replica(id).raft.as_ref().filter(|raft| raft.role() == Role::Leader) else { continue };
        match raft.lease_read(cluster.time(id)) {
            Ok(index) => {
                assert!(index >= committed(cluster), "{id} reads at {index} by a lease that is no more");
                totals.add(Event::LeaseRead, 1);
                holders.push(id);
            }
            Err(ReadError::NoLease) => totals.add(Event::LeaseRefused, 1),
            Err(_) => {}
        }
    }
    holders
}

/// The highest index known to be committed anywhere.
fn committed(cluster: &Cluster) -> LogIndex {
    LogIndex(cluster.invariants.committed.len() as u64)
}
