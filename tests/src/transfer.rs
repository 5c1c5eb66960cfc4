//! Bulk in one direction, by curl: many packets of full size, which small requests never send.

use std::{fs::File, net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result};

use crate::{lab::Lab, nginx::HUGE_BYTES};

/// Fetches `/huge`; whether all of it came within this time.
pub fn download(lab: &Lab, server: SocketAddr, limit: Duration) -> Result<bool> {
    let mut curl = curl(lab, limit);
    curl.args(["--output", "/dev/null", "--write-out", "%{size_download}"]);
    let output = curl.arg(format!("http://{server}/huge")).output().context("cannot run curl")?;
    Ok(output.status.success() && output.stdout == HUGE_BYTES.to_string().as_bytes())
}

/// Sends as much to `/upload`; whether the server had all of it within this time.
pub fn upload(lab: &Lab, server: SocketAddr, limit: Duration) -> Result<bool> {
    let path = lab.path("upload");
    File::create(&path)?.set_len(HUGE_BYTES)?;
    let mut curl = curl(lab, limit);
    curl.args(["--header", "Expect:", "--data-binary", &format!("@{}", path.display())]);
    let output = curl.arg(format!("http://{server}/upload")).output().context("cannot run curl")?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success() && said.trim() == HUGE_BYTES.to_string())
}

fn curl(lab: &Lab, limit: Duration) -> Command {
    let mut curl = lab.client().command("curl");
    curl.args(["--silent", "--fail", "--globoff", "--max-time", &limit.as_secs_f32().to_string()]);
    curl
}
