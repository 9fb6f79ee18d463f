//! A small generator of pseudo-random numbers for election time-outs and the names of read requests. Its seed is an
//! input: equal seeds, equal runs.

use core::time::Duration;

/// A Weyl sequence and a mixing function. Four bytes of state, since every replica has one; far from cryptographic, which
/// nobody needs here.
#[derive(Debug)]
pub(crate) struct Random(u32);

impl Random {
    pub(crate) const fn new(seed: u64) -> Random {
        Random((seed ^ seed >> 32) as u32)
    }

    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9);
        let mut z = self.0;
        z = (z ^ (z >> 16)).wrapping_mul(0x21F0_AAAD);
        z = (z ^ (z >> 15)).wrapping_mul(0x735A_2D97);
        z ^ (z >> 15)
    }

    /// Uniform in `[min, max]`. Times longer than 584 years count as that.
    pub(crate) fn between(&mut self, min: Duration, max: Duration) -> Duration {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let (min, max) = (nanos(min), nanos(max));
        let span = u128::from(max.saturating_sub(min)) + 1;
        // The high half of the product maps the generator's range on the span without a division.
        let offset = (u128::from(self.next()) * span) >> 32;
        Duration::from_nanos(min + offset as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_the_range_and_stays_inside() {
        let mut random = Random::new(7);
        let (min, max) = (Duration::from_nanos(10), Duration::from_nanos(13));
        let mut seen = [0u32; 4];
        for _ in 0..4_000 {
            let d = random.between(min, max);
            assert!(d >= min && d <= max);
            seen[d.as_nanos() as usize - 10] += 1;
        }
        assert!(seen.iter().all(|n| *n > 800), "{seen:?}");
    }
}
