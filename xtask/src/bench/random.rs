//! Random numbers for inputs.

/// SplitMix64 (Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Between −1 and 1.
    pub fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
    /// Less than `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
    /// Numbers up to `scale` in magnitude.
    pub fn numbers(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.number() * scale).collect()
    }
    /// Numbers as activations have them: some far larger than the rest, zeros of both signs, tiny
    /// ones.
    pub fn activations(&mut self, len: usize) -> Vec<f32> {
        let size = |i: usize| match i % 67 {
            13 => 30.0,
            29 => 0.0,
            30 => -0.0,
            50 => 1e-20,
            _ => 1.0,
        };
        (0..len).map(|i| self.number() * size(i)).collect()
    }
    /// The numbers from 0 to below `n` in random order.
    pub fn order(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// A seed that no run before had.
pub fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let time = since.map_or(0, |t| t.as_nanos() as u64);
    // Few digits, to be typed again.
    Random(time ^ u64::from(std::process::id()) << 32).bits() >> 40
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_hold_each_number_once() {
        let mut order = Random(1).order(100);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert!(order.iter().copied().eq(0..100));
    }
    #[test]
    fn numbers_stay_in_their_range() {
        let x = Random(2).numbers(10_000, 3.0);
        assert!(x.iter().all(|x| x.abs() <= 3.0));
        assert!(x.iter().any(|x| *x > 2.9) && x.iter().any(|x| *x < -2.9));
    }
}
