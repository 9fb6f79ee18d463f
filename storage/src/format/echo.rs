//! The echo: what a batch repeats of each group that the batch before it touched, so that one damaged batch can't take
//! along what a replica had promised.

use super::field::Fields;
use raftyard_raft::{GroupId, HardState, Limit, LogIndex, LogPosition, ReplicaId, Term};

/// Bytes of one echo.
pub const ECHO_BYTES: usize = 48;
/// In the place of the term, which no replica gets to: the replica was removed.
const REMOVED: u64 = u64::MAX;
/// In the place of the term: nobody knows what the replica held.
const AMNESIA: u64 = u64::MAX - 1;

const _: () = assert!(Term::MAX.0 < AMNESIA);

/// A group as it was after the batch before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// How it stood.
    pub state: EchoState,
}

/// How a replica stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoState {
    /// Its hard state, and the newest position that it may have acknowledged: of its last entry, or its bound.
    There(HardState, LogPosition),
    /// Nobody knows what it held.
    Amnesia,
    /// It was removed.
    Removed,
}

impl EchoState {
    pub(crate) fn of(limit: Limit, hard_state: HardState, claim: LogPosition) -> EchoState {
        if limit == Limit::Amnesia { EchoState::Amnesia } else { EchoState::There(hard_state, claim) }
    }
}

impl Echo {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; ECHO_BYTES] {
        let (term, hard_state, last) = match self.state {
            EchoState::There(hard_state, last) => (hard_state.term.0, hard_state, last),
            EchoState::Amnesia => (AMNESIA, HardState::default(), LogPosition::default()),
            EchoState::Removed => (REMOVED, HardState::default(), LogPosition::default()),
        };
        let vote = hard_state.vote.map_or(0, |vote| vote.0);
        let mut bytes = [0; ECHO_BYTES];
        let numbers = [self.group.0, self.replica.0, term, vote, last.term.0, last.index.0];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Echo> {
        let (group, replica) = (GroupId(fields.u64()?), ReplicaId(fields.u64()?));
        let (term, vote) = (fields.u64()?, fields.u64()?);
        let last = LogPosition { term: Term(fields.u64()?), index: LogIndex(fields.u64()?) };
        let hard_state = HardState { term: Term(term), vote: (vote != 0).then_some(ReplicaId(vote)) };
        let says_no_more = vote == 0 && last == LogPosition::default();
        let state = match term {
            REMOVED | AMNESIA if !says_no_more => return None,
            REMOVED => EchoState::Removed,
            AMNESIA => EchoState::Amnesia,
            _ => EchoState::There(hard_state, last),
        };
        Some(Echo { group, replica, state })
    }
}

/// The echoes of a batch's section; `None` if one of them is none.
pub fn decode_all(section: &[u8]) -> Option<impl Iterator<Item = Echo> + '_> {
    let (echoes, []) = section.as_chunks::<ECHO_BYTES>() else { return None };
    let mut echoes = echoes.iter().map(|bytes| Echo::decode(&mut Fields::new(bytes)));
    echoes.clone().all(|echo| echo.is_some()).then(|| std::iter::from_fn(move || echoes.next().flatten()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_reads_as_it_was_written() {
        let hard_state = HardState { term: Term(7), vote: Some(ReplicaId(2)) };
        let last = LogPosition { index: LogIndex(9), term: Term(6) };
        let there = Echo { group: GroupId(1), replica: ReplicaId(3), state: EchoState::There(hard_state, last) };
        let gone = Echo { group: GroupId(5), replica: ReplicaId(4), state: EchoState::Removed };
        let lost = Echo { state: EchoState::Amnesia, ..gone };
        let section = [there.encode(), gone.encode(), lost.encode()].concat();
        assert_eq!(decode_all(&section).unwrap().collect::<Vec<_>>(), [there, gone, lost]);
        assert!(decode_all(&section[1..]).is_none());
        // One that says no more than its mark has nothing else.
        for at in [24, 32, 40] {
            let mut echo = gone.encode();
            echo[at] = 1;
            assert!(decode_all(&[there.encode(), echo].concat()).is_none(), "byte {at}");
        }
    }
}
