//! The control loop: what is wanted, what is observed, and the maps that follow from both.
//!
//! [`node::Node`] owns all state; `admission`, `health` and `sweep` decide, purely; `tables` and
//! `servers` write the maps. [`handle::Handle`] is the door for everybody else.

pub mod admission;
pub mod backend;
pub mod blocks;
mod builds;
mod by_hand;
pub mod capacity;
pub mod clock;
mod coverage;
pub mod doubts;
pub mod explain;
pub mod freezes;
pub mod governor;
pub mod handle;
pub mod health;
pub mod node;
mod rules;
pub mod server_ids;
pub mod servers;
pub mod service;
pub mod shadows;
#[cfg(test)]
mod sim;
pub mod status;
pub mod sweep;
pub mod tables;
pub mod watch;
