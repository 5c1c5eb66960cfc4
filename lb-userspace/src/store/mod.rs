//! What survives a restart: the revision in force, what the CLI changed of it, drains, and who is
//! blocked.
//!
//! One JSON file in the state directory, replaced as a whole and synced, so that it is never
//! half written. A lock beside it keeps a second daemon out of the directory.
//!
//! Which wins at a restart, the configuration file or what the CLI made of it? The stored
//! configuration, as long as the file still says what it said when it was last taken; a file
//! that was edited since wins, and what the CLI changed before is given up, with a warning.
//! Drains and blocks are the operator's and outlast both.

mod digest;
mod health;
mod names;
mod side_file;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::control::backend::Drain;
use crate::control::blocks::Blocks;
use crate::control::freezes::Freezes;
use crate::control::node::Drains;

use digest::Digest;
pub use health::{Down, HealthFile};
pub use names::{NamesFile, Placed};

/// Raised when the file's shape changes.
const VERSION: u32 = 1;

/// What the file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// The secret of the program's hashes, hexadecimal.
    seed: String,
    pub revision: u64,
    /// The configuration in force.
    pub config: Config,
    /// Whole configurations taken since the last edit of the file: the file's own, and the one
    /// that `lb apply` brought last.
    taken: Vec<Digest>,
    drains: Vec<StoredDrain>,
    /// Who is kept out of every service.
    #[serde(default)]
    pub blocks: Blocks,
    /// Where health does not act.
    #[serde(default)]
    pub freezes: Freezes,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredDrain {
    service: String,
    backend: String,
    #[serde(flatten)]
    drain: Drain,
}

/// The state directory, locked.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the directory, made if missing, and reads what it holds.
    pub fn open(directory: &Path) -> Result<(Self, Option<State>)> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the state directory {}", directory.display()))?;
        let lock = lock(directory)?;
        let path = directory.join("state.json");
        let store = Self { path, _lock: lock };
        let state = store.read()?;
        Ok((store, state))
    }

    /// Replaces what the file holds; durable when this returns.
    pub fn write(&self, state: &State) -> Result<()> {
        let write = || -> Result<()> {
            let directory = self.path.parent().unwrap_or(Path::new("."));
            // Readable by root alone: it holds the hash's secret.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            let mut text = BufWriter::with_capacity(1 << 16, file.as_file_mut());
            serde_json::to_writer(&mut text, state)?;
            text.write_all(b"\n")?;
            text.flush()?;
            drop(text);
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            File::open(directory)?.sync_all()?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn read(&self) -> Result<Option<State>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", self.path.display()));
            }
        };
        let path = self.path.display();
        let state: State = serde_json::from_str(&text).with_context(|| {
            format!("{path} is damaged; move it away to start from the configuration file alone")
        })?;
        if state.version != VERSION {
            bail!(
                "{path} was written by another version of Holdfast (format {}, this one reads \
                 {VERSION}); move it away to start from the configuration file alone",
                state.version
            );
        }
        Ok(Some(state))
    }
}

impl State {
    /// A first state: this configuration, under a fresh seed.
    pub fn new(config: Config) -> Result<Self> {
        let mut seed = [0u8; 8];
        // SAFETY: fills at most the eight bytes of the buffer.
        let filled = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
        if filled != 8 {
            bail!("the kernel gave no random numbers for the hash's secret");
        }
        let taken = vec![Digest::of(&config)?];
        let seed = format!("{:016x}", u64::from_ne_bytes(seed));
        Ok(Self {
            version: VERSION,
            seed,
            revision: 1,
            config,
            taken,
            drains: Vec::new(),
            blocks: Blocks::default(),
            freezes: Freezes::default(),
        })
    }

    /// Takes a whole configuration, read from the file at start or reload: `file` as it was read,
    /// `config` as it can be in force. Whether it was new, and so is now in force.
    pub fn take_file(&mut self, file: &Config, config: Config) -> Result<bool> {
        let digest = Digest::of(file)?;
        let known = self.taken.contains(&digest);
        if self.taken.first() != Some(&digest) {
            // From here on this is what the file says; said before and applied since, or new.
            self.taken = vec![digest];
        }
        if !known {
            self.change(config);
        }
        Ok(!known)
    }

    /// Takes a whole configuration that `lb apply` brought.
    pub fn take_applied(&mut self, config: Config) -> Result<()> {
        let digest = Digest::of(&config)?;
        self.taken.truncate(1);
        if !self.taken.contains(&digest) {
            self.taken.push(digest);
        }
        self.change(config);
        Ok(())
    }

    /// Takes a change the CLI made. A revision is counted if it is one.
    pub fn change(&mut self, config: Config) {
        if config != self.config {
            self.revision += 1;
            self.config = config;
        }
    }

    /// The secret of the program's hashes.
    pub fn seed(&self) -> Result<u64> {
        u64::from_str_radix(&self.seed, 16).context("the stored seed is not a hexadecimal number")
    }

    /// What is drained.
    #[must_use]
    pub fn drains(&self) -> Drains {
        let pair = |d: &StoredDrain| ((d.service.clone(), d.backend.clone()), d.drain.clone());
        self.drains.iter().map(pair).collect()
    }

    /// How a backend is drained, if it is.
    #[must_use]
    pub fn drain(&self, service: &str, backend: &str) -> Option<&Drain> {
        let is_it = |d: &&StoredDrain| d.service == service && d.backend == backend;
        self.drains.iter().find(is_it).map(|stored| &stored.drain)
    }

    /// Drains a backend, or ends its drain. Whether that changed anything.
    pub fn set_drain(&mut self, service: &str, backend: &str, drain: Option<Drain>) -> bool {
        let same = match (self.drain(service, backend), &drain) {
            (Some(was), Some(drain)) => {
                let same_reason = drain.reason.is_none() || was.reason == drain.reason;
                let same_end = drain.until_ms.is_none() || was.until_ms == drain.until_ms;
                same_reason && same_end && was.maintenance == drain.maintenance
            }
            (was, drain) => was.is_some() == drain.is_some(),
        };
        if same {
            return false;
        }
        self.drains.retain(|d| d.service != service || d.backend != backend);
        self.drains.extend(drain.map(|drain| StoredDrain {
            service: service.into(),
            backend: backend.into(),
            drain,
        }));
        true
    }

    /// The clock of the day was set: what is to last an hour lasts an hour.
    pub fn move_along(&mut self, by_ms: i64) {
        self.drains.iter_mut().for_each(|stored| stored.drain.move_along(by_ms));
        self.freezes.move_along(by_ms);
        self.blocks.move_along(by_ms);
    }

    /// Forgets drains of backends that are no longer configured.
    pub fn forget_stale_drains(&mut self) {
        let config = &self.config;
        self.drains.retain(|d| {
            let service = config.services.iter().find(|s| s.name == d.service);
            service.is_some_and(|s| s.backends.iter().any(|b| b.name == d.backend))
        });
    }
}

fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).with_context(
        || format!("cannot open {} (`lb run` needs root: sudo lb run …)", path.display()),
    )?;
    // SAFETY: a plain call on a descriptor we own.
    let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if locked != 0 {
        bail!(
            "another `lb run` uses the state directory {}; stop it, or give this one its own with \
             --state-dir",
            directory.display()
        );
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse, to_toml};
    use crate::report::{Block, Freeze};

    fn config(weight: u16) -> Config {
        let source = format!(
            r#"
[node]
interfaces = ["eth0"]
[[service]]
name = "web"
mode = "nat"
listen = ["192.0.2.10:80/tcp"]
backends = [{{ name = "web-01", address = "10.0.0.11", weight = {weight} }}]
"#
        );
        parse(&source, "lb.toml").unwrap()
    }

    fn drain() -> Drain {
        Drain {
            reason: Some("kernel".into()),
            actor: "uid 0".into(),
            at_ms: 7,
            until_ms: None,
            maintenance: false,
        }
    }

    #[test]
    fn the_file_wins_only_when_it_was_edited() {
        let mut state = State::new(config(1)).unwrap();
        state.change(config(5));
        assert_eq!(state.revision, 2);
        assert!(
            !state.take_file(&config(1), config(1)).unwrap(),
            "the file is as it was: the CLI's change stays"
        );
        assert_eq!(state.config, config(5));
        state.take_applied(config(7)).unwrap();
        assert!(
            !state.take_file(&config(1), config(1)).unwrap(),
            "nor does it undo an applied configuration"
        );
        assert!(!state.take_file(&config(7), config(7)).unwrap(), "which may have become the file");
        assert!(state.take_file(&config(9), config(9)).unwrap(), "but an edited file wins");
        assert_eq!((state.revision, &state.config), (4, &config(9)));
        assert!(state.take_file(&config(1), config(1)).unwrap(), "also when edited back");
        state.take_applied(config(2)).unwrap();
        assert!(
            !state.take_file(&config(2), config(2)).unwrap(),
            "the file became what was applied"
        );
        assert!(state.take_file(&config(1), config(1)).unwrap(), "and was edited back since");
    }

    #[test]
    fn what_is_written_is_read_back_and_locked() {
        let directory = tempfile::tempdir().unwrap();
        let (store, none) = Store::open(directory.path()).unwrap();
        assert!(none.is_none());
        let mut state = State::new(config(1)).unwrap();
        assert!(state.set_drain("web", "web-01", Some(drain())));
        assert!(!state.set_drain("web", "web-01", Some(drain())));
        store.write(&state).unwrap();
        let second = Store::open(directory.path()).unwrap_err().to_string();
        assert!(second.contains("--state-dir"), "{second}");
        drop(store);
        let (_, read) = Store::open(directory.path()).unwrap();
        let mut read = read.unwrap();
        assert_eq!(read.seed().unwrap(), state.seed().unwrap());
        assert_eq!(read.drains().len(), 1);
        assert!(read.set_drain("web", "web-01", None));
        assert!(read.drains().is_empty());
    }

    #[test]
    fn what_has_an_end_moves_along_with_the_clock() {
        const HOUR: u64 = 3_600_000;
        let mut state = State::new(config(1)).unwrap();
        let at_ms = 100 * HOUR;
        let drain = Drain {
            reason: None,
            actor: "uid 0".into(),
            at_ms,
            until_ms: Some(at_ms + HOUR),
            maintenance: true,
        };
        state.set_drain("web", "web-01", Some(drain));
        state.freezes.add(Freeze {
            service: None,
            reason: None,
            actor: "uid 0".into(),
            since_ms: at_ms,
            until_ms: at_ms + HOUR,
        });
        let prefix = "198.51.100.0/24".parse().unwrap();
        let until_ms = Some(at_ms + HOUR);
        let actor = "uid 0".into();
        state.blocks.add(Block { prefix, reason: None, actor, since_ms: at_ms, until_ms });
        for (by_hours, now_hours) in [(24, 124), (-48, 76), (24, 100)] {
            state.move_along(by_hours * HOUR as i64);
            let (now, end) = (now_hours * HOUR, (now_hours + 1) * HOUR);
            let drain = &state.drains()[&("web".into(), "web-01".into())];
            assert_eq!((drain.at_ms, drain.until_ms), (now, Some(end)));
            assert_eq!(state.freezes.next_end(), Some(end));
            assert_eq!(state.blocks.next_end(), Some(end));
            assert_eq!(state.freezes.clone().expire(end - 1), []);
            assert_eq!(state.blocks.clone().expire(end - 1), []);
        }
    }

    /// Version 0.1.0 kept the text of what was taken.
    #[test]
    fn a_state_of_version_0_1_0_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(config(1)).unwrap();
        let mut json = serde_json::to_value(&state).unwrap();
        json["taken"] = serde_json::json!([to_toml(&config(1)), to_toml(&config(7))]);
        let text = serde_json::to_vec_pretty(&json).unwrap();
        fs::write(directory.path().join("state.json"), text).unwrap();
        let (_, read) = Store::open(directory.path()).unwrap();
        let mut read = read.unwrap();
        assert!(!read.take_file(&config(1), config(1)).unwrap(), "the file is as it was");
        assert!(!read.take_file(&config(7), config(7)).unwrap(), "or as was applied");
        assert!(read.take_file(&config(9), config(9)).unwrap(), "an edited one wins");
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        for content in ["{", "{}", r#"{"version":99}"#, "\u{0}"] {
            fs::write(directory.path().join("state.json"), content).unwrap();
            let error = format!("{:#}", Store::open(directory.path()).unwrap_err());
            assert!(error.contains("move it away"), "{content}: {error}");
            let kept = fs::read_to_string(directory.path().join("state.json")).unwrap();
            assert_eq!(kept, content);
        }
    }
}
