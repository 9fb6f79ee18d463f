//! What happened, in words, for whoever listens. It changes nothing: a world that nobody listens to lives the same.

use crate::net::kind;
use crate::world::World;
use raftyard_raft::{GroupId, Member, Raft, Role};
use raftyard_runtime::wire::{BatchReader, Frame, FrameKind, SnapshotAnswer, SnapshotBegin};

/// Lines that are kept.
const TOLD_MAX: usize = 200_000;

impl World {
    /// Adds a line to the trace, if anybody listens.
    pub(crate) fn tell(&mut self, line: impl FnOnce(&World) -> String) {
        if self.told.is_none() {
            return;
        }
        let line = format!("{:>10.6} s  {}", self.now.0 as f64 / 1e9, line(self));
        let told = self.told.as_mut().expect("looked at above");
        if told.len() >= TOLD_MAX {
            told.pop_front();
        }
        told.push_back(line);
    }

    pub(crate) fn tell_roles(&mut self, node: usize) {
        if self.told.is_none() {
            return;
        }
        let replicas = self.nodes[node].core.iter().flat_map(|core| core.replicas());
        let roles: Vec<(GroupId, String)> = replicas.map(|raft| (raft.group(), describe(raft))).collect();
        for (group, role) in roles {
            let known = self.roles.iter_mut().find(|(of, known, _)| (*of, *known) == (node, group));
            match known {
                Some((_, _, known)) if *known == role => continue,
                Some((_, _, known)) => known.clone_from(&role),
                None => self.roles.push((node, group, role.clone())),
            }
            self.tell(|_| format!("node {} group {group} {role}", node + 1));
        }
    }

    pub(crate) fn tell_messages(&mut self, from: usize, to: usize, frame: &[u8]) {
        if self.told.is_none() || kind(frame) < FrameKind::Messages as u8 {
            return;
        }
        let Ok(Some((frame, _))) = Frame::parse(frame, usize::MAX) else { return };
        if frame.kind != FrameKind::Messages {
            let (kind, len) = (frame.kind, frame.payload.len());
            let said = match kind {
                FrameKind::SnapshotBegin => format!("{:?}", SnapshotBegin::read(frame.body)),
                FrameKind::SnapshotAnswer => format!("{:?}", SnapshotAnswer::read(frame.body)),
                _ => format!("{kind:?}, {len} B"),
            };
            return self.tell(|_| format!("      {} -> {} {said}", from + 1, to + 1));
        }
        let mut lines = Vec::new();
        let mut reader = BatchReader::default();
        let read = reader.read(&frame, |message| {
            let body = format!("{:?}", message.body);
            let body: String = body.chars().take(120).collect();
            let (group, term) = (message.group, message.term);
            lines.push(format!("      {} -> {} group {group} term {term}: {body}", from + 1, to + 1));
        });
        if read.is_ok() {
            lines.into_iter().for_each(|line| self.tell(|_| line));
        }
    }
}

fn describe(raft: &Raft) -> String {
    let role = match (raft.role(), raft.leader()) {
        (Role::Follower, Some(leader)) => format!("follows replica {}", leader.replica),
        (Role::Follower, None) => "follows nobody".to_owned(),
        (Role::PreCandidate, _) => "asks for pre-votes".to_owned(),
        (Role::Candidate, _) => "asks for votes".to_owned(),
        (Role::Leader, _) => "LEADS".to_owned(),
    };
    let ids = |members: &mut dyn Iterator<Item = Member>| {
        members.map(|member| member.replica.to_string()).collect::<Vec<_>>().join(" ")
    };
    let configuration = raft.configuration();
    let (voters, learners) = (ids(&mut configuration.voters()), ids(&mut configuration.learners()));
    let outgoing = ids(&mut configuration.outgoing());
    let term = raft.term();
    format!(
        "replica {} {role} in term {term}, voters [{voters}] old [{outgoing}] learners [{learners}]",
        raft.replica()
    )
}
