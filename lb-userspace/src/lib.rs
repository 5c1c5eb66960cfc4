//! Holdfast's daemon and command-line tool.
pub mod config;
pub mod control;
pub mod dataplane;
pub mod net;
pub mod probe;
pub mod report;
