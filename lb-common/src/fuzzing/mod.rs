//! What the fuzz targets of `fuzz/` run: the packet path on any bytes, with what must then hold.
//!
//! Each target takes an input apart (the first bytes choose, the rest are frames), does one part
//! of the path's work, and asserts. So a panic is a finding, here as nowhere else. What it compares
//! with is written anew from the RFCs and shares no code with the path: a wrong constant does not
//! agree with itself.
//!
//! The committed corpus goes through the same functions as a plain test.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a panic is a finding")]

mod bytes;
mod decap;
mod guarded;
mod icmp;
mod parse;
mod path;
mod rewrite;
mod world;

pub use {decap::decap, icmp::icmp, parse::parse, path::path, rewrite::rewrite};

/// What a target does with an input.
pub type Target = fn(&[u8]);

/// All targets, by the names of their programs and corpora.
pub const TARGETS: [(&str, Target); 5] =
    [("parse", parse), ("path", path), ("decap", decap), ("icmp", icmp), ("rewrite", rewrite)];

#[cfg(test)]
mod tests;
