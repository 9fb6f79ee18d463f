//! Who belongs to a group, and what is a majority of it: voters, learners, and the two halves of a joint configuration
//! (Raft paper, section 6). Values only; who may change them when is decided in `membership`.

use crate::planted::{Bug, planted};
use crate::types::{Member, NodeId, ReplicaId};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The members of a group. In a joint configuration there are two sets of voters, and every decision needs a majority
/// of both (Raft paper, section 6).
///
/// Invariant: at most [`Configuration::MEMBERS_MAX`] members, sorted by replica, no replica twice, no id zero; no node
/// holds two that stay. At least one voter, unless it is the empty one of a replica that has yet to learn of its group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Configuration {
    members: Box<[Member]>,
    /// Voters by seat; of the new half while it is joint.
    pub(crate) voters: u32,
    /// Voters of the old half; none unless it is joint.
    pub(crate) outgoing: u32,
    /// Those of the old half that stay, as learners.
    pub(crate) demoted: u32,
    /// The highest replica id that this group ever had.
    highest: ReplicaId,
}

const _: () = assert!(Configuration::MEMBERS_MAX <= u32::BITS as usize, "members are counted in bits of a u32");

/// One change of a group's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberChange {
    /// A new replica that votes at once. Until it has caught up it can delay commits: rather add a learner, and promote
    /// it later (Raft thesis, section 4.2.1).
    AddVoter(Member),
    /// A new replica that gets the log and has no vote.
    AddLearner(Member),
    /// A learner gets a vote.
    Promote(ReplicaId),
    /// A voter becomes a learner.
    Demote(ReplicaId),
    /// A replica leaves for ever.
    Remove(ReplicaId),
}

/// Why members are no configuration, or a change leads to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// There would be no voter.
    #[error("a group needs at least one voter")]
    Empty,
    /// Too many members.
    #[error("a group has at most {max} members, both halves of a change counted, not {count}", max = Configuration::MEMBERS_MAX)]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A replica or node id is zero.
    #[error("replica and node ids start at 1")]
    ZeroId,
    /// One replica is named twice.
    #[error("replica {0} is named twice")]
    ReplicaTwice(ReplicaId),
    /// One node would hold two replicas.
    #[error("node {0} would hold two replicas of one group")]
    NodeTwice(NodeId),
    /// The id of a new replica may have been used before.
    #[error("replica id {replica} may have been used before; new ones start at {}", .highest.0 + 1)]
    ReplicaIdUsed {
        /// The id.
        replica: ReplicaId,
        /// The highest this group ever had.
        highest: ReplicaId,
    },
    /// There is no such member.
    #[error("replica {0} is no member")]
    NotMember(ReplicaId),
    /// A promotion is for learners, and this one votes.
    #[error("replica {0} votes already")]
    NotLearner(ReplicaId),
    /// A demotion is for voters, and this one has no vote.
    #[error("replica {0} has no vote")]
    NotVoter(ReplicaId),
    /// No change is asked for.
    #[error("there is nothing to change")]
    Unchanged,
}

impl Configuration {
    /// Most members of a group: voters of both halves and learners.
    pub const MEMBERS_MAX: usize = 32;

    /// A group of voters.
    ///
    /// # Errors
    /// Says which rule of the invariant the members break.
    pub fn new(voters: Vec<Member>) -> Result<Configuration, ConfigurationError> {
        Configuration::with_learners(voters, Vec::new())
    }

    /// A group of voters and learners.
    ///
    /// # Errors
    /// Says which rule of the invariant the members break.
    pub fn with_learners(voters: Vec<Member>, learners: Vec<Member>) -> Result<Configuration, ConfigurationError> {
        if voters.is_empty() {
            return Err(ConfigurationError::Empty);
        }
        let with_vote = |vote| move |member| (member, vote);
        let all = voters.into_iter().map(with_vote(true)).chain(learners.into_iter().map(with_vote(false))).collect();
        Configuration::assemble(all, &[], ReplicaId(0))
    }

    /// What a replica knows that was created to join an existing group: nobody. It learns of the group from its leader.
    #[must_use]
    pub fn joining() -> Configuration {
        Configuration { members: Box::default(), voters: 0, outgoing: 0, demoted: 0, highest: ReplicaId(0) }
    }

    /// All members, sorted by replica. A member's place here is its seat.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Who votes; in a joint configuration the voters of the new half.
    pub fn voters(&self) -> impl Iterator<Item = Member> + '_ {
        self.pick(self.voters)
    }

    /// In a joint configuration the voters of the old half; nobody otherwise.
    pub fn outgoing(&self) -> impl Iterator<Item = Member> + '_ {
        self.pick(self.outgoing)
    }

    /// Who gets the log and has no vote.
    pub fn learners(&self) -> impl Iterator<Item = Member> + '_ {
        self.pick(!(self.voters | self.outgoing))
    }

    /// Whether every decision needs two majorities.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.outgoing != 0
    }

    /// Whether no member is known yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether `replica` has a vote, in either half.
    #[must_use]
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.seat(replica).is_some_and(|seat| (self.voters | self.outgoing) & (1 << seat) != 0)
    }

    /// Whether `replica` will have a vote when the configuration is no longer joint.
    #[must_use]
    pub fn keeps_vote(&self, replica: ReplicaId) -> bool {
        self.seat(replica).is_some_and(|seat| self.voters & (1 << seat) != 0)
    }

    /// Whether `replica` is a member without a vote.
    #[must_use]
    pub fn is_learner(&self, replica: ReplicaId) -> bool {
        self.seat(replica).is_some() && !self.is_voter(replica)
    }

    /// Place of `replica` among the members.
    #[must_use]
    pub fn seat(&self, replica: ReplicaId) -> Option<usize> {
        self.members.binary_search_by_key(&replica, |m| m.replica).ok()
    }

    /// The node that holds `replica`.
    #[must_use]
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.seat(replica).map(|seat| self.members[seat].node)
    }

    /// The member on `node`; of two during a change, the one that stays.
    #[must_use]
    pub fn member_on(&self, node: NodeId) -> Option<Member> {
        let mut on_node = self.members.iter().enumerate().filter(|(_, m)| m.node == node);
        let first = on_node.next()?;
        let stays = |seat: usize| !self.leaving() & (1 << seat) != 0;
        let other = on_node.next().filter(|&(seat, _)| stays(seat) && !stays(first.0));
        Some(*other.unwrap_or(first).1)
    }

    /// The highest replica id that this group ever had: a new replica's is above it.
    #[must_use]
    pub fn highest_replica(&self) -> ReplicaId {
        self.highest
    }

    /// The configuration that `changes` lead to, all in one step. It is joint if more than one voter changes; then
    /// [`left`](Configuration::left) ends the step. A joint configuration can't be changed.
    ///
    /// # Errors
    /// Says which change can't be, or which rule of the invariant the result would break.
    pub fn changed(&self, changes: &[MemberChange]) -> Result<Configuration, ConfigurationError> {
        assert!(!self.is_joint(), "one change after the other");
        if changes.is_empty() {
            return Err(ConfigurationError::Unchanged);
        }
        let voter = |seat: usize| self.voters & (1 << seat) != 0;
        let mut all: Vec<(Member, bool)> = self.members.iter().enumerate().map(|(i, &m)| (m, voter(i))).collect();
        for (place, change) in changes.iter().enumerate() {
            let replica = change.replica();
            if changes[..place].iter().any(|earlier| earlier.replica() == replica) {
                return Err(ConfigurationError::ReplicaTwice(replica));
            }
            self.apply(change, &mut all)?;
        }
        let before: Vec<Member> = self.voters().collect();
        let votes = |member: &Member| all.contains(&(*member, true));
        let gone = before.iter().filter(|member| !votes(member)).count();
        let came = all.iter().filter(|(member, vote)| *vote && !before.contains(member)).count();
        let outgoing = if gone + came > 1 { &before[..] } else { &[] };
        Configuration::assemble(all, outgoing, self.highest)
    }

    /// What a joint configuration becomes: its new half, and the learners.
    #[must_use]
    pub fn left(&self) -> Configuration {
        let stays = |seat: usize| !self.leaving() & (1 << seat) != 0;
        let voter = |seat: usize| self.voters & (1 << seat) != 0;
        let seats = self.members.iter().enumerate().filter(|(seat, _)| stays(*seat));
        let all = seats.map(|(seat, &member)| (member, voter(seat))).collect();
        Configuration::assemble(all, &[], self.highest).expect("half of a configuration is one")
    }

    /// What an operator forces on a group that lost its majority for ever: one voter, and learners.
    ///
    /// # Errors
    /// Says which rule of the invariant the members break.
    pub(crate) fn forced(&self, voter: Member, learners: Vec<Member>) -> Result<Configuration, ConfigurationError> {
        let highest = self.highest;
        // Members stay; others are new, and their ids must be.
        if let Some(used) =
            learners.iter().find(|m| m.replica.0 != 0 && m.replica <= highest && !self.members.contains(m))
        {
            return Err(ConfigurationError::ReplicaIdUsed { replica: used.replica, highest });
        }
        let all = core::iter::once((voter, true)).chain(learners.into_iter().map(|learner| (learner, false)));
        Configuration::assemble(all.collect(), &[], self.highest)
    }

    /// Whether the members for which `agrees` holds are a majority of the voters; of both halves if it is joint.
    pub fn has_quorum(&self, agrees: impl Fn(ReplicaId) -> bool) -> bool {
        let seats = self.members.iter().enumerate().filter(|(_, member)| agrees(member.replica));
        self.is_quorum(seats.fold(0, |bits, (seat, _)| bits | 1 << seat))
    }

    /// Whether these seats, as bits, are a majority; of both halves if it is joint.
    pub(crate) fn is_quorum(&self, seats: u32) -> bool {
        let most = |half: u32| (seats & half).count_ones() > half.count_ones() / 2;
        most(self.voters) && (self.outgoing == 0 || most(self.outgoing) || planted(Bug::HalfOfJoint))
    }

    /// The highest value that a majority has reached, of both halves if it is joint; `of` tells a seat's.
    pub(crate) fn agreed<T: Ord + Copy + Default>(&self, of: impl Fn(usize) -> T) -> T {
        let half = |mut seats: u32| {
            let mut values = [T::default(); Self::MEMBERS_MAX];
            let count = seats.count_ones() as usize;
            for value in &mut values[..count] {
                *value = of(seats.trailing_zeros() as usize);
                seats &= seats - 1;
            }
            values[..count].sort_unstable_by(|a, b| b.cmp(a));
            values[count / 2]
        };
        match (self.voters, self.outgoing) {
            (0, _) => T::default(),
            (voters, outgoing) if outgoing == 0 || planted(Bug::HalfOfJoint) => half(voters),
            (voters, outgoing) => half(voters).min(half(outgoing)),
        }
    }

    /// Seats of those who leave when a joint configuration ends.
    fn leaving(&self) -> u32 {
        self.outgoing & !self.voters & !self.demoted
    }

    fn pick(&self, seats: u32) -> impl Iterator<Item = Member> + '_ {
        self.members.iter().enumerate().filter(move |(seat, _)| seats & (1 << seat) != 0).map(|(_, member)| *member)
    }

    fn apply(&self, change: &MemberChange, all: &mut Vec<(Member, bool)>) -> Result<(), ConfigurationError> {
        let known = |all: &[(Member, bool)], replica| {
            all.iter().position(|(m, _)| m.replica == replica).ok_or(ConfigurationError::NotMember(replica))
        };
        match *change {
            MemberChange::AddVoter(member) | MemberChange::AddLearner(member) => {
                let (replica, highest) = (member.replica, self.highest);
                if replica <= highest && replica.0 != 0 {
                    return Err(ConfigurationError::ReplicaIdUsed { replica, highest });
                }
                all.push((member, matches!(change, MemberChange::AddVoter(_))));
            }
            MemberChange::Promote(replica) => {
                let place = known(all, replica)?;
                if core::mem::replace(&mut all[place].1, true) {
                    return Err(ConfigurationError::NotLearner(replica));
                }
            }
            MemberChange::Demote(replica) => {
                let place = known(all, replica)?;
                if !core::mem::replace(&mut all[place].1, false) {
                    return Err(ConfigurationError::NotVoter(replica));
                }
            }
            MemberChange::Remove(replica) => {
                all.remove(known(all, replica)?);
            }
        }
        Ok(())
    }

    /// Puts together those who stay, with their votes, and the old half of a joint configuration.
    fn assemble(
        mut all: Vec<(Member, bool)>,
        outgoing: &[Member],
        highest: ReplicaId,
    ) -> Result<Configuration, ConfigurationError> {
        if !all.iter().any(|(_, vote)| *vote) {
            return Err(ConfigurationError::Empty);
        }
        all.sort_unstable_by_key(|(m, _)| m.replica);
        for (i, (member, _)) in all.iter().enumerate() {
            check_member(member, all[..i].iter().map(|(m, _)| m))?;
        }
        let mut members: Vec<Member> = all.iter().map(|(m, _)| *m).collect();
        members.extend(outgoing.iter().filter(|old| !all.iter().any(|(m, _)| m == *old)));
        members.sort_unstable_by_key(|m| m.replica);
        if members.len() > Self::MEMBERS_MAX {
            return Err(ConfigurationError::TooMany { count: members.len() });
        }
        let seats = |belongs: &dyn Fn(&Member) -> bool| {
            members.iter().enumerate().filter(|(_, m)| belongs(m)).fold(0, |bits, (seat, _)| bits | 1u32 << seat)
        };
        let voters = seats(&|m| all.contains(&(*m, true)));
        let old = seats(&|m| outgoing.contains(m));
        let demoted = old & seats(&|m| all.contains(&(*m, false)));
        let highest = members.last().map_or(highest, |last| highest.max(last.replica));
        Ok(Configuration { members: members.into(), voters, outgoing: old, demoted, highest })
    }
}

impl MemberChange {
    /// Whom it is about.
    #[must_use]
    pub const fn replica(&self) -> ReplicaId {
        match *self {
            MemberChange::AddVoter(member) | MemberChange::AddLearner(member) => member.replica,
            MemberChange::Promote(replica) | MemberChange::Demote(replica) | MemberChange::Remove(replica) => replica,
        }
    }
}

fn check_member<'a>(member: &Member, mut before: impl Iterator<Item = &'a Member>) -> Result<(), ConfigurationError> {
    if member.replica.0 == 0 || member.node.0 == 0 {
        return Err(ConfigurationError::ZeroId);
    }
    let clash = before.find(|other| other.replica == member.replica || other.node == member.node);
    match clash {
        None => Ok(()),
        Some(other) if other.replica == member.replica => Err(ConfigurationError::ReplicaTwice(member.replica)),
        Some(_) => Err(ConfigurationError::NodeTwice(member.node)),
    }
}

/// The parts of a configuration, as its encoding has them.
pub(crate) struct Parts {
    pub(crate) members: Vec<Member>,
    pub(crate) voters: u32,
    pub(crate) outgoing: u32,
    pub(crate) demoted: u32,
    pub(crate) highest: ReplicaId,
}

impl Parts {
    /// The configuration of these parts, if they keep its invariant.
    pub(crate) fn check(self) -> Option<Configuration> {
        let Parts { members, voters, outgoing, demoted, highest } = self;
        if members.is_empty() {
            return (voters | outgoing | demoted == 0 && highest.0 == 0).then(Configuration::joining);
        }
        let seated = u32::MAX.checked_shr(u32::BITS - u32::try_from(members.len()).ok()?)?;
        if (voters | outgoing | demoted) & !seated != 0 || demoted & !(outgoing & !voters) != 0 {
            return None;
        }
        let leaving = outgoing & !voters & !demoted;
        let pick = |seats: u32| members.iter().enumerate().filter(move |(seat, _)| seats & (1 << seat) != 0);
        let all = pick(seated & !leaving).map(|(seat, &member)| (member, voters & (1 << seat) != 0)).collect();
        let old: Vec<Member> = pick(outgoing).map(|(_, &member)| member).collect();
        let whole = Configuration::assemble(all, &old, highest).ok()?;
        // Put together again it must be the very same, or something in it was out of place.
        let same = *whole.members == *members && whole.voters == voters && whole.outgoing == outgoing;
        let old_ids = old.iter().all(|m| m.replica.0 != 0 && m.node.0 != 0);
        let distinct = members.windows(2).all(|pair| pair[0].replica < pair[1].replica);
        (same && old_ids && distinct && whole.demoted == demoted && whole.highest == highest).then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn member(id: u64) -> Member {
        Member { replica: ReplicaId(id), node: NodeId(id) }
    }

    fn trio() -> Configuration {
        Configuration::new(vec![member(1), member(2), member(3)]).expect("three members")
    }

    fn ids(members: impl Iterator<Item = Member>) -> Vec<u64> {
        members.map(|m| m.replica.0).collect()
    }

    #[test]
    fn one_voter_changes_at_once_and_more_by_a_joint_step() {
        let simple = trio().changed(&[MemberChange::AddVoter(member(4))]).expect("one more voter");
        assert!(!simple.is_joint());
        let on_three = Member { replica: ReplicaId(7), node: NodeId(3) };
        let changes = [MemberChange::Remove(ReplicaId(3)), MemberChange::AddVoter(on_three)];
        let joint = trio().changed(&changes).expect("a replacement");
        assert_eq!((ids(joint.voters()), ids(joint.outgoing())), (vec![1, 2, 7], vec![1, 2, 3]));
        assert_eq!(joint.member_on(NodeId(3)), Some(on_three), "the one that stays");
        assert!(joint.is_quorum(0b0011), "1 and 2 are two of three in both halves");
        assert!(!joint.is_quorum(0b1001), "1 and 7 are one of three in the old half");
        let left = joint.left();
        assert_eq!((ids(left.voters()), left.is_joint(), left.highest_replica()), (vec![1, 2, 7], false, ReplicaId(7)));
    }

    #[test]
    fn a_demoted_voter_stays_as_learner_when_the_step_ends() {
        let changes = [MemberChange::Demote(ReplicaId(2)), MemberChange::AddVoter(member(4))];
        let joint = trio().changed(&changes).expect("two voters change");
        assert!(joint.is_joint() && joint.is_voter(ReplicaId(2)) && !joint.keeps_vote(ReplicaId(2)));
        assert!(joint.left().is_learner(ReplicaId(2)));
    }

    #[test]
    fn changes_that_cannot_be_are_refused() {
        use MemberChange as C;
        let cases = [
            (vec![], ConfigurationError::Unchanged),
            (vec![C::Remove(ReplicaId(9))], ConfigurationError::NotMember(ReplicaId(9))),
            (vec![C::Promote(ReplicaId(1))], ConfigurationError::NotLearner(ReplicaId(1))),
            (vec![C::Demote(ReplicaId(8))], ConfigurationError::NotMember(ReplicaId(8))),
            (vec![C::AddVoter(member(0))], ConfigurationError::ZeroId),
            (
                vec![C::AddLearner(member(2))],
                ConfigurationError::ReplicaIdUsed { replica: ReplicaId(2), highest: ReplicaId(3) },
            ),
            (
                vec![C::AddVoter(Member { replica: ReplicaId(4), node: NodeId(1) })],
                ConfigurationError::NodeTwice(NodeId(1)),
            ),
            (vec![C::Demote(ReplicaId(1)), C::Remove(ReplicaId(1))], ConfigurationError::ReplicaTwice(ReplicaId(1))),
            ((1..=3).map(|id| C::Remove(ReplicaId(id))).collect(), ConfigurationError::Empty),
            ((1..=3).map(|id| C::Demote(ReplicaId(id))).collect(), ConfigurationError::Empty),
        ];
        for (changes, error) in cases {
            assert_eq!(trio().changed(&changes), Err(error), "{changes:?}");
        }
        let many: Vec<_> = (4..40).map(|id| C::AddLearner(member(id))).collect();
        assert_eq!(trio().changed(&many), Err(ConfigurationError::TooMany { count: 39 }));
    }

    #[test]
    fn a_removed_id_never_comes_back() {
        let two = trio().changed(&[MemberChange::Remove(ReplicaId(3))]).expect("two stay");
        let again = two.changed(&[MemberChange::AddVoter(member(3))]);
        let (replica, highest) = (ReplicaId(3), ReplicaId(3));
        assert_eq!(again, Err(ConfigurationError::ReplicaIdUsed { replica, highest }));
    }

    #[test]
    fn an_operator_forces_no_id_that_was_used_before() {
        let two = trio().changed(&[MemberChange::Remove(ReplicaId(3))]).expect("two stay");
        let forced = two.forced(member(1), vec![member(2), member(4)]).expect("one stays, one is new");
        assert_eq!((ids(forced.voters()), ids(forced.learners())), (vec![1], vec![2, 4]));
        let highest = ReplicaId(3);
        let moved = Member { replica: ReplicaId(2), node: NodeId(9) };
        for used in [member(3), moved] {
            let replica = used.replica;
            let error = ConfigurationError::ReplicaIdUsed { replica, highest };
            assert_eq!(two.forced(member(1), vec![used]), Err(error), "{used:?}");
        }
    }

    #[test]
    fn agreement_needs_both_halves() {
        let changes = [MemberChange::Remove(ReplicaId(3)), MemberChange::AddVoter(member(4))];
        let joint = trio().changed(&changes).expect("a replacement");
        // Seats: 1, 2, 3, 4.
        assert_eq!(joint.agreed(|seat| [9, 5, 7, 3][seat]), 5, "9 5 7 agree on 7, 9 5 3 on 5");
        assert_eq!(Configuration::joining().agreed(|_| 9), 0);
        assert!(!Configuration::joining().is_quorum(u32::MAX));
    }
}
