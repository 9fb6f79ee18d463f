//! Which core of a node hosts a group. Every node of a cluster with the same number of cores gives the same answer, so
//! a core also knows which core of a peer to dial.

use super::port::CoreId;
use raftyard_raft::GroupId;

/// The core, of `cores`, that hosts `group`.
///
/// # Panics
/// If `cores` is zero: a node has at least one.
#[must_use]
pub fn core_of(group: GroupId, cores: u16) -> CoreId {
    assert!(cores > 0, "a node has at least one core");
    // Fibonacci hashing spreads consecutive ids, and the multiplication by `cores` takes the high bits, which are the
    // well mixed ones. The answer is part of what is on disk: it must never change.
    let hash = group.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let core = (u128::from(hash) * u128::from(cores)) >> 64;
    CoreId(u16::try_from(core).expect("the product's high half is below `cores`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_spread_evenly_and_stay_where_they_are() {
        for cores in [1, 2, 3, 8] {
            let mut count = vec![0; usize::from(cores)];
            for group in 1..=1000 {
                count[usize::from(core_of(GroupId(group), cores).0)] += 1;
            }
            let fair = 1000 / i32::from(cores as i16);
            assert!(count.iter().all(|&c: &i32| (c - fair).abs() <= fair / 20 + 1), "{cores} cores: {count:?}");
        }
        // A group that moved would not find its log again.
        let cores: Vec<u16> = (1..=8).map(|group| core_of(GroupId(group), 4).0).collect();
        assert_eq!(cores, [2, 0, 3, 1, 0, 2, 1, 3]);
    }
}
