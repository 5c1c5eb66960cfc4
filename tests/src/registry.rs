//! Which labs exist: by the names of their namespaces, `hf-ID-ROLE`, and no list that could go stale.
//!
//! The id of a lab that ends with its process begins with `p` and the process id; that of a lab that was kept
//! (`cargo xtask lab up`) begins with `k`.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Result;

use crate::namespace;

const PREFIX: &str = "hf-";

/// An id that no other lab of this machine has.
pub(crate) fn new_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("p{}n{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An id for a lab that outlives its process: the first that is free.
pub(crate) fn new_kept_id() -> String {
    let taken = ids();
    (1..).map(|n: u32| format!("k{n}")).find(|id| !taken.contains(id)).unwrap_or_default()
}

pub(crate) fn namespace_name(id: &str, role: &str) -> String {
    format!("{PREFIX}{id}-{role}")
}

pub(crate) fn directory(id: &str) -> PathBuf {
    env::temp_dir().join(format!("{PREFIX}{id}"))
}

/// Ids of the labs that were left up on purpose.
pub fn kept() -> Vec<String> {
    ids().into_iter().filter(|id| id.starts_with('k')).collect()
}

/// Takes a lab down: its processes, namespaces and files.
pub fn down(id: &str) -> Result<()> {
    let mut first_error = Ok(());
    for name in namespace::names(&format!("{PREFIX}{id}-")) {
        let removed = namespace::remove(&name);
        first_error = first_error.and(removed);
    }
    let directory = directory(id);
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    first_error
}

/// Takes down the labs whose process has died without doing so, and says which.
pub fn down_stale() -> Result<Vec<String>> {
    let stale: Vec<String> = ids().into_iter().filter(|id| is_stale(id)).collect();
    for id in &stale {
        down(id)?;
    }
    Ok(stale)
}

fn is_stale(id: &str) -> bool {
    owner(id).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn owner(id: &str) -> Option<u32> {
    id.strip_prefix('p')?.split_once('n')?.0.parse().ok()
}

fn ids() -> BTreeSet<String> {
    let names = namespace::names(PREFIX);
    let id = |name: &String| Some(name.strip_prefix(PREFIX)?.split_once('-')?.0.to_owned());
    names.iter().filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_of_dead_processes_are_stale() {
        assert_eq!(owner("p123n4"), Some(123));
        assert_eq!(owner("k1"), None);
        assert!(!is_stale(&new_id()));
        assert!(is_stale("p4194999n1"), "above the largest process id");
        assert!(!is_stale("k1"));
    }
}
