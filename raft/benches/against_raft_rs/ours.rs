//! Three replicas of this crate.

use crate::Trio;
use crate::replicas::{Replicas, Shared};
use bytes::Bytes;

impl Trio for Replicas {
    type Shared = Shared;

    fn elected(group: u64, shared: &Shared) -> Replicas {
        Replicas::elected(group, shared)
    }

    fn propose(&mut self, commands: &mut Vec<Bytes>) {
        Replicas::propose(self, commands.drain(..));
    }

    fn beat(&mut self) {
        Replicas::beat(self);
    }

    fn compact(&mut self) {
        for replica in &mut self.0 {
            let applied = replica.raft.applied();
            replica.raft.compact(applied).expect("it is durable and applied");
            replica.disk.clear();
        }
    }

    fn applied(&self) -> [u64; 3] {
        Replicas::applied(self)
    }

    fn sizes(self) -> [usize; 2] {
        Replicas::sizes(self)
    }
}
