//! The control plane: one loop owns all state; its decisions are pure functions of events and time.
pub mod handle;
pub mod health;
