//! Which core of a node hosts a group: a fixed function, so that every node knows it of every other from its number of
//! cores.

use super::port::CoreId;
use raftyard_raft::GroupId;

/// The core that hosts `group` on a node of `cores` cores.
///
/// # Panics
/// If `cores` is 0.
#[must_use]
pub fn core_of(group: GroupId, cores: u16) -> CoreId {
    assert!(cores > 0, "a node has a core");
    // Fibonacci hashing: consecutive ids spread evenly, and the high bits depend on all of the id.
    let mixed = group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    CoreId((mixed % u64::from(cores)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_spread_evenly_over_the_cores() {
        for cores in 1..=16 {
            let mut counts = vec![0u32; usize::from(cores)];
            for group in 1..=10_000 {
                counts[usize::from(core_of(GroupId(group), cores).0)] += 1;
            }
            let fair = 10_000 / u32::from(cores);
            assert!(counts.iter().all(|&c| c > fair * 9 / 10 && c < fair * 11 / 10), "{cores} cores: {counts:?}");
        }
    }
}
