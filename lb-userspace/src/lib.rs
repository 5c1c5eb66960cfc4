//! Holdfast's daemon and command-line tool.
pub mod alert;
pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod names;
pub mod net;
pub mod probe;
pub mod report;
pub mod store;
