//! A file beside the state that is of use after a restart, and no loss without one.
//!
//! Written whenever what it says changes, and not synced: what a crash of the machine loses of it
//! is found again.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Something of which such a file keeps a list.
pub trait Kept: Clone + PartialEq + Serialize + DeserializeOwned {
    /// Its name in the state directory.
    const FILE: &'static str;
    /// Raised when the file's shape changes; one of another version is not read.
    const VERSION: u32;
}

#[derive(Debug, Serialize, Deserialize)]
struct Contents<T> {
    version: u32,
    /// Version 0.1.0 had a name of its own for them.
    #[serde(alias = "down")]
    entries: Vec<T>,
}

/// The file.
#[derive(Debug)]
pub struct SideFile<T> {
    path: PathBuf,
    written: Vec<T>,
}

impl<T: Kept> SideFile<T> {
    /// The file of a state directory, and what it says. One that cannot be read says nothing.
    #[must_use]
    pub fn open(directory: &Path) -> (Self, Vec<T>) {
        let path = directory.join(T::FILE);
        let read = std::fs::read(&path).ok();
        let contents = read.and_then(|text| serde_json::from_slice::<Contents<T>>(&text).ok());
        let entries = contents.filter(|c| c.version == T::VERSION).map(|c| c.entries);
        let entries = entries.unwrap_or_default();
        (Self { path, written: entries.clone() }, entries)
    }

    /// Replaces what it says, if that is not what it says.
    pub fn write(&mut self, entries: Vec<T>) -> Result<()> {
        if entries == self.written {
            return Ok(());
        }
        let write = |entries: Vec<T>| -> Result<Vec<T>> {
            let mut file =
                tempfile::NamedTempFile::new_in(self.path.parent().unwrap_or(Path::new(".")))?;
            let contents = Contents { version: T::VERSION, entries };
            file.write_all(&serde_json::to_vec(&contents)?)?;
            file.persist(&self.path)?;
            Ok(contents.entries)
        };
        self.written =
            write(entries).with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(())
    }
}
