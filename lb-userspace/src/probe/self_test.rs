//! Whether the prober can be believed: where most backends fail at once, it may be its own fault.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::TcpListener;

use super::{Asked, Configs, Target};
use crate::config::model::Probe;
use crate::net::first_down;

/// For a connection within this host.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Fails, with what is wrong, if an interface is down or if a probe of a listener of our own does
/// not pass.
pub async fn self_test(interfaces: &[String]) -> Result<()> {
    if let Some(name) = first_down(interfaces).await? {
        bail!("our own interface {name} is down");
    }
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await
        .context("cannot listen on the loopback interface")?;
    let address = listener.local_addr().context("a listener without address")?;
    let (service, backend) = (String::new(), String::new());
    let target = Target { address, source: None, mark: None, service, backend };
    let asked = Asked::new(&Probe::Tcp, &mut Configs::default());
    let (probed, accepted) = tokio::join!(
        super::probe(&target, &asked, TIMEOUT),
        tokio::time::timeout(TIMEOUT, listener.accept()),
    );
    probed.map_err(|failure| anyhow!("a probe within this host fails: {}", failure.text))?;
    accepted.context("a connection within this host is not accepted")??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testbed::Namespace;

    #[test]
    fn passes_where_links_are_up_and_says_which_is_not() {
        let here = Namespace::new();
        here.ip("link set lo up");
        here.ip("link add eth0 type veth peer name eth1");
        let interfaces = ["eth0".to_owned()];
        here.run(async {
            let error = self_test(&interfaces).await.unwrap_err().to_string();
            assert_eq!(error, "our own interface eth0 is down");
        });
        here.ip("link set eth0 up");
        here.ip("link set eth1 up");
        here.run(async { self_test(&interfaces).await.unwrap() });
        here.ip("link set lo down");
        here.run(async {
            let error = self_test(&interfaces).await.unwrap_err();
            assert!(error.to_string().contains("within this host"), "{error:#}");
        });
    }
}
