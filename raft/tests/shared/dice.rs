//! Throws of dice, all decided by a seed.

#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Of a test whose dice fall otherwise than another's of the same seed, by its `salt`.
    pub(crate) fn salted(seed: u64, salt: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt)
    }

    pub(crate) fn next(&mut self) -> u64 {
        // Xorshift, with a multiplication so that the low bits are good too.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// True once in `n`.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
