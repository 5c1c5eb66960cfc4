//! What tells one configuration from another without keeping either: 128 bits of it.
//!
//! Against accidents, not against forgers: who writes configurations runs the node anyway.

use std::fmt;
use std::io::{self, BufWriter};

use lb_common::hash::fmix64;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Of a configuration's JSON, so it says the same in every version that writes the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Digest(u128);

impl Digest {
    pub(super) fn of(config: &Config) -> Result<Self, serde_json::Error> {
        let mut hasher = BufWriter::with_capacity(BLOCK, Hasher::default());
        serde_json::to_writer(&mut hasher, config)?;
        let hasher =
            hasher.into_inner().map_err(|error| serde_json::Error::io(error.into_error()))?;
        Ok(hasher.finish())
    }
}

/// Any two numbers, as long as they stay.
const SEEDS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

/// Bytes that are collected before they are hashed: they come in small pieces.
const BLOCK: usize = 1 << 14;

/// Two hashes of all bytes in words of eight, the last one filled up with zeros, and then of their
/// number.
struct Hasher {
    lanes: [u64; 2],
    length: u64,
    /// The bytes of the word that is not complete, which are `length % 8`.
    word: [u8; 8],
}

impl Default for Hasher {
    fn default() -> Self {
        Self { lanes: SEEDS, length: 0, word: [0; 8] }
    }
}

impl Hasher {
    fn absorb(&mut self, word: u64) {
        self.lanes = self.lanes.map(|lane| fmix64(lane ^ word).wrapping_add(lane.rotate_left(32)));
    }

    fn byte(&mut self, byte: u8) {
        let at = self.length % 8;
        self.length += 1;
        if let Some(place) = self.word.get_mut(at as usize) {
            *place = byte;
        }
        if at == 7 {
            let word = std::mem::take(&mut self.word);
            self.absorb(u64::from_le_bytes(word));
        }
    }

    fn finish(mut self) -> Digest {
        self.absorb(u64::from_le_bytes(self.word));
        self.absorb(self.length);
        let [high, low] = self.lanes.map(u128::from);
        Digest(high << 64 | low)
    }
}

impl io::Write for Hasher {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let all = bytes.len();
        while let Some((&byte, rest)) = bytes.split_first() {
            match bytes.split_first_chunk() {
                Some((word, rest)) if self.length.is_multiple_of(8) => {
                    self.length += 8;
                    self.absorb(u64::from_le_bytes(*word));
                    bytes = rest;
                }
                _ => {
                    self.byte(byte);
                    bytes = rest;
                }
            }
        }
        Ok(all)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Also of the configuration itself as TOML, which version 0.1.0 kept.
impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len() == 32
            && let Ok(digest) = u128::from_str_radix(&text, 16)
        {
            return Ok(Self(digest));
        }
        let config = crate::config::parse(&text, "a taken configuration");
        let config = config.map_err(|error| error.to_string())?;
        Self::of(&config).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// State files hold digests: another answer for the same text would make every node take its
    /// file for edited.
    #[test]
    fn digests_are_frozen_and_do_not_depend_on_how_bytes_come() {
        let text: Vec<u8> = (0..2_000u32).map(|at| (at % 251) as u8).collect();
        let of = |text: &[u8], pieces: usize| {
            let mut hasher = Hasher::default();
            text.chunks(pieces).for_each(|piece| hasher.write_all(piece).unwrap());
            hasher.finish().to_string()
        };
        for pieces in [1, 7, 8, 9, 63, 2_000] {
            assert_eq!(of(&text, pieces), "2c5c13b2a139928e6c9b969b13c4424a", "{pieces}");
            assert_eq!(of(&text[..1_995], pieces), "8c64b1cc42b23278b6e7723a7cd41cc5", "{pieces}");
        }
        assert_ne!(of(&[0; 8], 8), of(&[0; 9], 8));
    }
}
