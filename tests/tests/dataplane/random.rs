//! Randomness that can be repeated: seeded from `HOLDFAST_TEST_SEED` if that is set. And how much
//! of it.

/// Random packets in all, unless `HOLDFAST_PACKETS` says otherwise: in an emulated machine each
/// takes long.
pub(crate) fn packets() -> usize {
    const PACKETS: usize = 500_000;
    let chosen = std::env::var("HOLDFAST_PACKETS").ok();
    chosen.map_or(PACKETS, |n| n.parse().expect("HOLDFAST_PACKETS is a number"))
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Says its seed, so that a failure can be run again.
    pub(crate) fn from_environment() -> Self {
        let seed = std::env::var("HOLDFAST_TEST_SEED").ok();
        let seed = seed.map_or(1, |s| s.parse().expect("HOLDFAST_TEST_SEED is a number"));
        println!("seed {seed} (HOLDFAST_TEST_SEED={seed} repeats this run)");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`, which is not zero.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}
