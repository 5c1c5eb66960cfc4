//! The packet program in this machine's kernel: packets in, packets out, and what was counted.
//!
//! No interface is touched: every packet goes through `BPF_PROG_TEST_RUN`. Loading a program
//! needs root; without, these tests fail and say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

mod checks;
mod decode;
mod doubts;
mod entries;
mod errors;
mod fixtures;
mod frames;
mod parity;
mod places;
mod policies;
mod probe_path;
mod random;
mod resets;
mod rig;
mod rows;
mod spread;
mod states;
mod traffic;
mod verifier;
mod world;
