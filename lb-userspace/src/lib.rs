//! Holdfast's daemon and command-line tool.
pub mod api;
pub mod config;
pub mod control;
pub mod report;
