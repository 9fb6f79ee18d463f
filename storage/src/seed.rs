//! Numbers from a seed, for salts. Owns no entropy: whoever opens a log brings the seed, so that a simulated run can be
//! repeated and a real one can't be guessed.

/// A stream of numbers that are a function of its seed alone (splitmix64).
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

/// The salt of one segment. The number is part of it, so that a seed used twice (a simulated restart) still gives
/// every segment its own salt.
pub(crate) fn salt(seed: u64, segment: u64) -> [u8; 16] {
    let mut stream = Seeded::new(mix(seed) ^ mix(segment.wrapping_add(0x51ed_270b_8a7c_9f21)));
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&stream.next().to_le_bytes());
    salt[8..].copy_from_slice(&stream.next().to_le_bytes());
    salt
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::salt;

    #[test]
    fn one_seed_salts_each_segment_differently() {
        assert_eq!(salt(7, 1), salt(7, 1));
        assert_ne!(salt(7, 1), salt(7, 2));
        assert_ne!(salt(7, 1), salt(8, 1));
    }
}
