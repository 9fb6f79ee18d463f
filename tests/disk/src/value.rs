//! The values that are written: bytes that follow from their group and number, so that whoever reads one back can tell
//! whether it is the right one.

use crate::random::Random;
use raftyard::GroupId;

/// Values a run may write: the higher bits of a number say which run, so that no two runs give out the same.
pub(crate) const NUMBERS_A_RUN: u64 = 1 << 32;

/// Where a value was numbered.
const NUMBER_BYTES: usize = 8;

/// The value of a number: the number, then bytes that follow from it and its group. From 8 bytes to beyond a block.
pub(crate) fn value_of(group: GroupId, number: u64) -> Vec<u8> {
    let mut random = Random::new(number ^ group.0.rotate_left(48));
    let bytes = match random.below(20) {
        0 => 4096 + random.below(4096),
        1..=4 => random.below(1500),
        _ => random.below(150),
    };
    let mut value = vec![0; NUMBER_BYTES + bytes as usize];
    random.fill(&mut value);
    value[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
    value
}

/// The number of a value of this group, if every byte of it is right.
pub(crate) fn number_of(group: GroupId, value: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*value.first_chunk::<NUMBER_BYTES>()?);
    (value == value_of(group, number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_by_every_byte_of_it_and_by_its_group() {
        for number in [0, 1, NUMBERS_A_RUN + 7] {
            let value = value_of(GroupId(3), number);
            assert_eq!(number_of(GroupId(3), &value), Some(number));
            for place in 0..value.len() {
                let mut other = value.clone();
                other[place] ^= 1;
                assert_eq!(number_of(GroupId(3), &other), None, "byte {place}");
            }
        }
        let long = (0..100).map(|number| value_of(GroupId(3), number)).find(|value| value.len() > 100);
        assert_eq!(number_of(GroupId(4), &long.expect("some are long")), None, "another group's");
        assert_eq!(number_of(GroupId(3), b"short"), None);
    }
}
