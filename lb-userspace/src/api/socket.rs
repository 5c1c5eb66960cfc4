//! The socket file: one daemon per path, stale files of dead daemons replaced.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::report::{Error, ErrorKind};

/// Members of this group may connect, and so read; where it doesn't exist only root may.
const GROUP: &str = "holdfast";

/// A bound socket that no other daemon serves.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: tokio::net::UnixListener,
    pub(super) path: PathBuf,
    /// Uids that may change things.
    pub(super) writers: Vec<u32>,
    /// Held as long as the socket is served: two daemons starting at once can't both win.
    _lock: File,
}

/// Binds `path`, with its directory. Must be called within a tokio runtime.
pub fn bind(path: &Path) -> Result<Listener, Error> {
    let failed = |what: &str, error: &io::Error| {
        Error::new(
            ErrorKind::Refused,
            format!("can't {what} {}: {error}", path.display()),
            "check the directory's permissions, or choose another with --socket",
        )
    };
    create_directory(path).map_err(|error| failed("create the directory of", &error))?;
    let lock = lock(path)?;
    remove_stale(path)?;
    let socket = UnixListener::bind(path).map_err(|error| failed("bind", &error))?;
    let owner = restrict(path).map_err(|error| failed("set the permissions of", &error))?;
    socket
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixListener::from_std(socket))
        .map(|socket| Listener {
            socket,
            path: path.to_owned(),
            writers: vec![0, owner],
            _lock: lock,
        })
        .map_err(|error| failed("serve", &error))
}

fn create_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.exists() => {
            fs::create_dir_all(parent)?;
            fs::set_permissions(parent, Permissions::from_mode(0o755))
        }
        _ => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let failed = |error: io::Error| {
        Error::new(
            ErrorKind::Refused,
            format!("can't lock {}: {error}", lock_path.display()),
            "check the directory's permissions, or choose another with --socket",
        )
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(failed)?;
    // Whoever can open the file can hold the lock: nobody but the daemon's user should.
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(taken(path)),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::Refused,
            format!("{} exists and is no socket", path.display()),
            "move it away, or choose another path with --socket",
        ));
    }
    // Somebody answers though the lock is free: not a file of ours to remove.
    if UnixStream::connect(path).is_ok() {
        return Err(taken(path));
    }
    fs::remove_file(path).map_err(|error| {
        Error::new(
            ErrorKind::Refused,
            format!("can't replace the stale {}: {error}", path.display()),
            "remove it by hand",
        )
    })
}

fn taken(path: &Path) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("another lb run is serving {}", path.display()),
        "stop it first, or choose another path with --socket",
    )
}

/// Mode 0660, group `holdfast` if there is one; the uid that owns it.
fn restrict(path: &Path) -> io::Result<u32> {
    if let Some(group) = group_id(&fs::read_to_string("/etc/group").unwrap_or_default()) {
        // Not being root, one can't give it away: then the group stays as it is.
        let _ = chown(path, None, Some(group));
    }
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(fs::metadata(path)?.uid())
}

fn group_id(groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(GROUP)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_group() {
        let groups = "root:x:0:\nholdfast-x:x:5:\nholdfast:x:123:alice,bob\n";
        assert_eq!(group_id(groups), Some(123));
        assert_eq!(group_id("root:x:0:\nholdfast\nholdfast:x:many:"), None);
    }
}
