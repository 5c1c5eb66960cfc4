//! Internet checksums, changed by what changed (RFC 1071, RFC 1624 equation 3).
//!
//! One's-complement sums do not depend on byte order, so words are taken as they lie in memory.

/// The difference that replaced words make to a checksum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference(u64);

impl Difference {
    /// No difference.
    #[inline(always)]
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// Adds the replacement of a 32-bit word. At most 2³¹ replacements fit.
    #[inline(always)]
    #[must_use]
    pub const fn replace(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Adds the replacement of an address.
    #[inline(always)]
    #[must_use]
    pub const fn replace_words(self, old: &[u32; 4], new: &[u32; 4]) -> Self {
        self.replace(old[0], new[0])
            .replace(old[1], new[1])
            .replace(old[2], new[2])
            .replace(old[3], new[3])
    }

    /// Joins two differences.
    #[inline(always)]
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The difference as one word, as the kernel takes it (`__wsum`).
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        ((sum >> 32) + (sum & 0xffff_ffff)) as u32
    }

    /// The new checksum, from the old one as it lies in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + !checksum as u64)
    }
}

/// A one's-complement sum of words as they lie in memory, for a header made anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Of nothing.
    #[inline(always)]
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// Adds four bytes, or two. At most 2³¹ words fit.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds an address.
    #[inline(always)]
    #[must_use]
    pub const fn add_words(self, words: &[u32; 4]) -> Self {
        self.add(words[0]).add(words[1]).add(words[2]).add(words[3])
    }

    /// Takes four bytes away, or two: adds their complement.
    #[inline(always)]
    #[must_use]
    pub const fn subtract(self, word: u32) -> Self {
        self.add(!word)
    }

    /// The sum if `mask` is all ones, nothing if it is zero: a branch that is none.
    #[inline(always)]
    #[must_use]
    pub const fn masked(self, mask: u64) -> Self {
        Self(self.0 & mask)
    }

    /// Joins two sums.
    #[inline(always)]
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum of what was added, as it lies in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !fold(self.0)
    }

    /// The same for UDP, where zero says "no checksum": a computed zero is sent as its other form
    /// (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn udp_checksum(self) -> u16 {
        // Adding all ones changes no sum but zero's form; no branch.
        let sum = self.checksum() as u32 + 0xffff;
        ((sum >> 16) + (sum & 0xffff)) as u16
    }
}

#[inline(always)]
const fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 4.1, over the whole text.
    fn whole(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|&w| u32::from(w)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn a_changed_checksum_is_the_recomputed_one(
            mut text in prop::collection::vec(any::<u16>(), 12), new: [u32; 4], first: u32,
        ) {
            // A header is never all zero, nor all ones: the only texts with two checksums.
            text[0] = 0x4500;
            let old = whole(&text);
            let word = |t: &[u16], at: usize| u32::from(t[at]) | u32::from(t[at + 1]) << 16;
            let olds = [word(&text, 4), word(&text, 6), word(&text, 8), word(&text, 10)];
            let difference = Difference::none()
                .replace(word(&text, 2), first)
                .replace_words(&olds, &new);
            for (i, value) in [first, new[0], new[1], new[2], new[3]].into_iter().enumerate() {
                text[2 + 2 * i] = value as u16;
                text[3 + 2 * i] = (value >> 16) as u16;
            }
            prop_assert_eq!(difference.apply(old), whole(&text));
            // As the kernel does it with the word.
            prop_assert_eq!(Difference::none().replace(!0, difference.word()).apply(old), whole(&text));
        }
    }

    proptest! {
        #[test]
        fn a_sum_is_the_whole_texts(words: [u32; 6], taken: u32) {
            let text: Vec<u16> =
                words.iter().flat_map(|&w| [w as u16, (w >> 16) as u16]).collect();
            let sum = Sum::none()
                .add_words(&[words[0], words[1], words[2], words[3]])
                .add(taken)
                .join(Sum::none().add(words[4]).add(words[5]))
                .join(Sum::none().add(taken).masked(0))
                .subtract(taken);
            prop_assert_eq!(sum.checksum(), whole(&text));
            prop_assert_eq!(sum.masked(u64::MAX).checksum(), whole(&text));
        }
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        for word in 0..=0xffffu32 {
            let sum = Sum::none().add(word);
            let wanted = if sum.checksum() == 0 { 0xffff } else { sum.checksum() };
            assert_eq!(sum.udp_checksum(), wanted);
        }
        assert_eq!(Sum::none().add(0xffff).udp_checksum(), 0xffff);
    }

    #[test]
    fn the_example_of_rfc_1624_holds() {
        // Section 4: the sum that equation 2 of RFC 1141 gets wrong.
        let difference = Difference::none().replace(0x5555, 0x3285);
        assert_eq!(difference.apply(0xdd2f), 0x0000);
    }
}
