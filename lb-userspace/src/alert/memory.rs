//! What targets were told, kept across restarts, so that a restart repeats nothing.
//!
//! A file of its own beside the daemon's state: it changes with every alert, and to lose it costs
//! no more than a repetition. Readable by root alone, as names of targets may be secrets.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::engine::{Engine, Told};

const FILE: &str = "alerts.json";

/// The file, and what it held at the start.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    told: BTreeMap<String, Vec<Told>>,
}

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    targets: T,
}

impl Memory {
    /// Reads it. What can't be read is forgotten, with a line in the log.
    #[must_use]
    pub fn open(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let told = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Stored<_>>(&bytes)
                .map(|stored| stored.targets)
                .map_err(anyhow::Error::from),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error.into()),
        };
        let told = told.unwrap_or_else(|error| {
            let path = path.display().to_string();
            tracing::warn!(%error, path, "what alerts were sent is forgotten; they may come again");
            BTreeMap::new()
        });
        Self { path, told }
    }

    /// What a target was told before the start; once.
    pub fn take(&mut self, target: &str) -> Vec<Told> {
        self.told.remove(target).unwrap_or_default()
    }

    /// Writes what all targets have been told. Durable when this returns.
    pub fn write(&self, engine: &Engine) -> Result<()> {
        let targets: BTreeMap<&String, Vec<&Told>> =
            engine.subscribers().map(|(name, s)| (name, s.told().collect())).collect();
        let write = || -> Result<()> {
            let directory = self.path.parent().unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&serde_json::to_vec(&Stored { targets })?)?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }
}
