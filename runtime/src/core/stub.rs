//! STUB, dropped at the merge.
#![allow(missing_docs)]
use super::port::{CoreId, Input, LinkId, Output};
use crate::group::StateMachineFactory;
use crate::mail::{Answer, Applied, Mail};
use raftyard_raft::{Instant, LogIndex, NodeId, Term};
use raftyard_storage::wal::{Recovered, StoreId, Wal};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct CoreConfig {
    pub cluster: u64,
    pub node: NodeId,
    pub core: CoreId,
    pub cores: u16,
    pub store: StoreId,
    pub boot: u64,
    pub peers: Vec<NodeId>,
    pub heartbeat_interval: Duration,
    pub proposal_timeout: Duration,
    pub entry_bytes_max: usize,
    pub log_bytes_max: usize,
    pub frame_bytes_max: usize,
    pub send_buffer_bytes_max: usize,
    pub durable: bool,
}

impl Default for CoreConfig {
    fn default() -> Self {
        CoreConfig {
            cluster: 1,
            node: NodeId(1),
            core: CoreId(0),
            cores: 1,
            store: StoreId(1),
            boot: 1,
            peers: vec![],
            heartbeat_interval: Duration::from_millis(100),
            proposal_timeout: Duration::from_secs(5),
            entry_bytes_max: 8 << 20,
            log_bytes_max: 1 << 30,
            frame_bytes_max: 16 << 20,
            send_buffer_bytes_max: 64 << 20,
            durable: true,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

/// Echoes what peers send, answers every proposal.
pub struct Core {
    out: VecDeque<Output>,
    config: CoreConfig,
    up: Vec<LinkId>,
    waiting: VecDeque<(LinkId, crate::mail::Reply<Result<Applied, crate::mail::ProposeError>>)>,
}

impl Core {
    pub fn open(
        config: CoreConfig,
        _wal: Wal,
        _recovered: Recovered,
        _machines: Arc<dyn StateMachineFactory>,
        _now: Instant,
        _seed: u64,
    ) -> Result<Core, OpenError> {
        let mut out = VecDeque::new();
        for (n, &node) in config.peers.iter().enumerate() {
            out.push_back(Output::Dial { link: LinkId::dialled(n as u64), node, core: CoreId(0) });
        }
        Ok(Core { out, config, up: vec![], waiting: VecDeque::new() })
    }
    pub fn handle(&mut self, _now: Instant, input: Input<'_>) {
        match input {
            Input::Mail(Mail::Propose { data, reply, .. }) => match self.up.first() {
                Some(&link) => {
                    self.out.push_back(Output::Send { link, buffer: data.to_vec() });
                    self.waiting.push_back((link, reply));
                }
                None => drop(reply),
            },
            Input::Mail(Mail::Shutdown { reply }) => self.out.push_back(Output::Answer(Answer::Shutdown(reply))),
            Input::LinkUp(link) if !link.is_accepted() => self.up.push(link),
            Input::Bytes { link, bytes } if link.is_accepted() => {
                self.out.push_back(Output::Send { link, buffer: bytes.to_vec() });
            }
            Input::Bytes { bytes, .. } => {
                if let Some((_, reply)) = self.waiting.pop_front() {
                    let response = bytes::Bytes::copy_from_slice(bytes);
                    let applied = Applied { index: LogIndex(1), term: Term(self.config.boot), response };
                    self.out.push_back(Output::Answer(Answer::Propose(reply, Ok(applied))));
                }
            }
            _ => {}
        }
    }
    pub fn end_turn(&mut self, _now: Instant) {}
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
