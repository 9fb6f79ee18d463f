//! Configurations as bytes: in a log's entries, in the creation of a replica, and on the wire. Version 1, little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | number of members, at most 32 |
//! | 2 | 2 | zero |
//! | 4 | 4 | voters (of the new half), a bit a seat |
//! | 8 | 4 | voters of the old half; zero unless joint |
//! | 12 | 4 | those of the old half that stay as learners |
//! | 16 | 8 | highest replica id ever used |
//! | 24 | 16 each | members by replica id: replica, node |
//!
//! An entry of kind `Configuration` holds: version 1, flags (1: forced), two zeroes, length of the configuration (4),
//! the configuration, and the context that the change was proposed with.

use crate::configuration::{Configuration, Parts};
use crate::types::{Member, NodeId, ReplicaId};
use alloc::vec::Vec;
use bytes::Bytes;

const VERSION: u8 = 1;
const FLAG_FORCED: u8 = 1;
const ENTRY_HEADER_BYTES: usize = 8;

/// Bytes are no configuration of a version that this build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no configuration that this version knows")]
pub struct DecodeError;

/// What an entry of kind [`EntryKind::Configuration`](crate::EntryKind::Configuration) holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationEntry {
    /// The members from this entry on.
    pub configuration: Configuration,
    /// What the change was proposed with; empty when a leader ends a joint configuration.
    pub context: Bytes,
    /// An operator forced it on a group that had lost its majority.
    pub forced: bool,
}

impl Configuration {
    /// Bytes of the largest encoding.
    pub const ENCODED_BYTES_MAX: usize = 24 + 16 * Configuration::MEMBERS_MAX;

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let count = u8::try_from(self.members().len()).expect("at most MEMBERS_MAX members");
        out.extend_from_slice(&[VERSION, count, 0, 0]);
        for seats in [self.voters, self.outgoing, self.demoted] {
            out.extend_from_slice(&seats.to_le_bytes());
        }
        out.extend_from_slice(&self.highest_replica().0.to_le_bytes());
        for member in self.members() {
            out.extend_from_slice(&member.replica.0.to_le_bytes());
            out.extend_from_slice(&member.node.0.to_le_bytes());
        }
    }

    /// Reads what [`encode`](Configuration::encode) wrote, all of `bytes`.
    ///
    /// # Errors
    /// Bytes of another version, or that break a rule of a configuration.
    pub fn decode(bytes: &[u8]) -> Result<Configuration, DecodeError> {
        decode(bytes).ok_or(DecodeError)
    }
}

fn decode(bytes: &[u8]) -> Option<Configuration> {
    let (header, members) = bytes.split_first_chunk::<24>()?;
    let [VERSION, count, 0, 0, rest @ ..] = header else { return None };
    if members.len() != usize::from(*count) * 16 {
        return None;
    }
    let u64_at = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let seats_at = |at: usize| Some(u32::from_le_bytes(*rest.get(at..)?.first_chunk()?));
    let member = |at: &[u8]| Some(Member { replica: ReplicaId(u64_at(at, 0)?), node: NodeId(u64_at(at, 8)?) });
    let parts = Parts {
        members: members.chunks_exact(16).map(member).collect::<Option<Vec<Member>>>()?,
        voters: seats_at(0)?,
        outgoing: seats_at(4)?,
        demoted: seats_at(8)?,
        highest: ReplicaId(u64_at(rest, 12)?),
    };
    parts.check()
}

impl ConfigurationEntry {
    /// Bytes an entry has at most beside its context.
    pub const OVERHEAD_BYTES_MAX: usize = ENTRY_HEADER_BYTES + Configuration::ENCODED_BYTES_MAX;

    /// The data of the entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(ENTRY_HEADER_BYTES + Configuration::ENCODED_BYTES_MAX + self.context.len());
        out.extend_from_slice(&[VERSION, if self.forced { FLAG_FORCED } else { 0 }, 0, 0, 0, 0, 0, 0]);
        self.configuration.encode(&mut out);
        let len = u32::try_from(out.len() - ENTRY_HEADER_BYTES).expect("at most ENCODED_BYTES_MAX");
        out[4..ENTRY_HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&self.context);
        out.into()
    }

    /// Reads an entry's data.
    ///
    /// # Errors
    /// Bytes of another version, or that break a rule of a configuration; one without a voter is none.
    pub fn decode(data: &Bytes) -> Result<ConfigurationEntry, DecodeError> {
        let (header, rest) = data.split_first_chunk::<ENTRY_HEADER_BYTES>().ok_or(DecodeError)?;
        let [VERSION, flags, 0, 0, len @ ..] = *header else { return Err(DecodeError) };
        let len = u32::from_le_bytes(len) as usize;
        if flags & !FLAG_FORCED != 0 || len > rest.len() {
            return Err(DecodeError);
        }
        let configuration = Configuration::decode(&rest[..len])?;
        if configuration.is_empty() {
            return Err(DecodeError);
        }
        let context = data.slice(ENTRY_HEADER_BYTES + len..);
        Ok(ConfigurationEntry { configuration, context, forced: flags & FLAG_FORCED != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::MemberChange;
    use alloc::vec;

    fn joint() -> Configuration {
        let member = |id| Member { replica: ReplicaId(id), node: NodeId(id + 10) };
        let three = Configuration::new((1..=3).map(member).collect()).expect("three members");
        let changes = [
            MemberChange::Demote(ReplicaId(2)),
            MemberChange::Remove(ReplicaId(3)),
            MemberChange::AddVoter(member(4)),
            MemberChange::AddLearner(member(5)),
        ];
        three.changed(&changes).expect("a joint configuration")
    }

    #[test]
    fn the_bytes_of_version_1() {
        let mut out = Vec::new();
        joint().encode(&mut out);
        let mut golden = vec![1, 5, 0, 0, 0b01001, 0, 0, 0, 0b00111, 0, 0, 0, 0b00010, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        for id in 1..=5 {
            golden.extend_from_slice(&[id, 0, 0, 0, 0, 0, 0, 0, id + 10, 0, 0, 0, 0, 0, 0, 0]);
        }
        assert_eq!(out, golden);
        assert_eq!(Configuration::decode(&out), Ok(joint()));
        let entry = ConfigurationEntry { configuration: joint(), context: Bytes::from_static(b"why"), forced: true };
        let data = entry.encode();
        assert_eq!(&data[..8], [1, 1, 0, 0, 104, 0, 0, 0]);
        assert_eq!(ConfigurationEntry::decode(&data), Ok(entry));
    }

    #[test]
    fn the_empty_one_comes_back_but_is_no_entry() {
        let mut out = Vec::new();
        Configuration::joining().encode(&mut out);
        assert_eq!(Configuration::decode(&out), Ok(Configuration::joining()));
        let configuration = Configuration::joining();
        let entry = ConfigurationEntry { configuration, context: Bytes::new(), forced: false };
        assert_eq!(ConfigurationEntry::decode(&entry.encode()), Err(DecodeError));
    }

    #[test]
    fn damaged_bytes_are_refused_or_another_valid_configuration_and_never_panic() {
        let mut out = Vec::new();
        joint().encode(&mut out);
        for bit in 0..out.len() * 8 {
            let mut damaged = out.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Configuration::decode(&damaged) {
                let mut again = Vec::new();
                other.encode(&mut again);
                assert_eq!(again, damaged, "what is accepted is canonical");
            }
        }
        for cut in 0..out.len() {
            assert_eq!(Configuration::decode(&out[..cut]), Err(DecodeError));
        }
    }
}
