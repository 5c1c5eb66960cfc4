//! A lab: the namespaces, cabled and served by nginx, and the failures one can cause in it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, bail};

use crate::{
    namespace::Namespace,
    network,
    nginx::Nginx,
    registry,
    topology::{Arms, Topology},
    xdp,
};

/// Everything in it ends when it is dropped, unless it was built to be kept.
#[derive(Debug)]
pub struct Lab {
    id: String,
    topology: Topology,
    keep: bool,
    roles: Vec<Namespace>,
    backends: Vec<Backend>,
}

#[derive(Debug)]
pub struct Backend {
    pub name: String,
    pub namespace: Namespace,
    pub nginx: Nginx,
}

const ROLES: [&str; 3] = ["switch", "client", "lb"];
/// Of a lab whose client is far.
const ROUTERS: [&str; 2] = ["near", "core"];
/// Of a lab whose backends are behind routers.
const ROUTERS_BEHIND: [&str; 2] = ["front", "rack"];
const DESCRIPTION: &str = "topology.json";

impl Lab {
    pub fn build(topology: Topology) -> Result<Self> {
        Self::build_as(registry::new_id(), topology)
    }

    /// A lab that stays when this process ends; `lb_tests::down(id)` removes it.
    pub fn build_kept(topology: Topology) -> Result<Self> {
        let mut lab = Self::build_as(registry::new_kept_id(), topology)?;
        lab.keep = true;
        Ok(lab)
    }

    fn build_as(id: String, topology: Topology) -> Result<Self> {
        if !(1..=200).contains(&topology.backends) {
            bail!("a lab has 1 to 200 backends, not {}", topology.backends);
        }
        if topology.arms == Arms::Two && topology.behind.is_some() {
            bail!("a lab has its backends behind a second arm or behind routers, not both");
        }
        let directory = registry::directory(&id);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(DESCRIPTION), serde_json::to_vec(&topology)?)?;
        // From here on `Drop` removes what was made, also when a step fails.
        let mut lab = Self { id, topology, keep: false, roles: Vec::new(), backends: Vec::new() };
        for role in roles(&lab.topology) {
            lab.roles.push(Namespace::create(&registry::namespace_name(&lab.id, role))?);
        }
        for index in 0..lab.topology.backends {
            let name = lab.topology.backend_name(index);
            let namespace = Namespace::create(&registry::namespace_name(&lab.id, &name))?;
            let nginx = Nginx::configure(&namespace, &name, &directory.join(&name))?;
            lab.backends.push(Backend { name, namespace, nginx });
        }
        network::build(&lab).context("cannot build the lab's network")?;
        if lab.topology.nginx {
            lab.start_all()?;
        }
        Ok(lab)
    }

    /// A kept lab, to work in; dropping this leaves it up.
    pub fn open(id: &str) -> Result<Self> {
        let directory = registry::directory(id);
        let text = fs::read(directory.join(DESCRIPTION)).with_context(|| format!("no lab {id}"))?;
        let topology: Topology = serde_json::from_slice(&text)?;
        let open = |role: &str| Namespace::open(&registry::namespace_name(id, role));
        let roles = roles(&topology).map(open).collect::<Result<_>>()?;
        let backends = (0..topology.backends)
            .map(|index| {
                let name = topology.backend_name(index);
                let namespace = open(&name)?;
                let nginx = Nginx::at(&namespace, &directory.join(&name));
                Ok(Backend { name, namespace, nginx })
            })
            .collect::<Result<_>>()?;
        Ok(Self { id: id.to_owned(), topology, keep: true, roles, backends })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// For configuration, socket, state and logs; removed with the lab.
    pub fn directory(&self) -> PathBuf {
        registry::directory(&self.id)
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory().join(name)
    }

    /// Where the bridges are.
    pub fn switch(&self) -> &Namespace {
        &self.roles[0]
    }

    pub fn client(&self) -> &Namespace {
        &self.roles[1]
    }

    pub fn balancer(&self) -> &Namespace {
        &self.roles[2]
    }

    /// `near` and `core`, if the client is far.
    pub fn routers(&self) -> &[Namespace] {
        let count = if self.topology.far.is_some() { ROUTERS.len() } else { 0 };
        &self.roles[ROLES.len()..][..count]
    }

    /// `front` and `rack`, if the backends are behind them.
    pub fn routers_behind(&self) -> &[Namespace] {
        &self.roles[ROLES.len() + self.routers().len()..]
    }

    /// From now on the routers neither make nor forward ICMP, as a firewall does that thinks all of it harmful: those
    /// before the balancer to the client and to VIPs, those behind it to the balancer and to backends, too.
    pub fn forbid_icmp(&self) -> Result<()> {
        network::set_icmp(self, false)
    }

    /// Ends [`Self::forbid_icmp`].
    pub fn allow_icmp(&self) -> Result<()> {
        network::set_icmp(self, true)
    }

    /// Backends announce segments of this size to a far client.
    pub fn announce_mss(&self, bytes: u16) -> Result<()> {
        let announce = |b: &Backend| network::announce_mss(&b.namespace, &self.topology, bytes);
        self.backends.iter().try_for_each(announce)
    }

    /// Client and backends forget what they learned of paths.
    pub fn forget_path_mtus(&self) -> Result<()> {
        let backends = self.backends.iter().map(|backend| &backend.namespace);
        backends.chain([self.client()]).try_for_each(network::flush_routes_learned)
    }

    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    pub fn backend(&self, index: usize) -> Result<&Backend> {
        self.backends.get(index).with_context(|| format!("no backend {index} in this lab"))
    }

    pub fn start_backend(&self, index: usize) -> Result<()> {
        self.backend(index)?.nginx.start()
    }

    pub fn stop_backend(&self, index: usize) -> Result<()> {
        self.backend(index)?.nginx.stop()
    }

    /// `kill -9` of its nginx.
    pub fn kill_backend(&self, index: usize) -> Result<()> {
        self.backend(index)?.nginx.kill()
    }

    /// Pulls the cable: the backend answers nothing any more, not even with a reset.
    pub fn link_down(&self, index: u8) -> Result<()> {
        network::ip(self.switch(), &format!("link set {} down\n", network::port(index)))
    }

    /// Returns when the link carries packets again.
    pub fn link_up(&self, index: u8) -> Result<()> {
        let port = network::port(index);
        network::ip(self.switch(), &format!("link set {port} up\n"))?;
        let backend = &self.backend(index.into())?.namespace;
        network::wait_for_link(backend, "eth0", self.switch(), &port)
    }

    /// What comes to the backend is dropped without a word; the link stays up, and neighbours are answered.
    pub fn drop_silently(&self, index: u8) -> Result<()> {
        xdp::attach(&self.backend(index.into())?.namespace, "eth0", xdp::SILENCE)
    }

    /// Ends [`Self::drop_silently`].
    pub fn drop_nothing(&self, index: u8) -> Result<()> {
        xdp::detach(&self.backend(index.into())?.namespace, "eth0")
    }

    /// Attaches a foreign XDP program, one that passes everything, to the balancer's eth0.
    pub fn occupy(&self) -> Result<()> {
        xdp::attach(self.balancer(), "eth0", xdp::PASS)
    }

    /// Puts VIPs on every backend's `lo`, as all modes but `nat` need; done at the start for the two usual ones.
    pub fn configure_dsr_vips(&self, vips: &[IpAddr]) -> Result<()> {
        for backend in &self.backends {
            network::configure_dsr_vips(&backend.namespace, vips)?;
        }
        Ok(())
    }

    /// Requests answered by each backend, by its own log, without probes.
    pub fn requests(&self) -> Result<Vec<usize>> {
        self.backends.iter().map(|backend| backend.nginx.requests()).collect()
    }

    fn start_all(&self) -> Result<()> {
        thread::scope(|scope| {
            let starts: Vec<_> =
                self.backends.iter().map(|b| scope.spawn(|| b.nginx.start())).collect();
            starts.into_iter().try_for_each(|start| match start.join() {
                Ok(started) => started,
                Err(payload) => std::panic::resume_unwind(payload),
            })
        })
    }
}

fn roles(topology: &Topology) -> impl Iterator<Item = &'static str> {
    let routers = ROUTERS.iter().filter(|_| topology.far.is_some());
    let behind = ROUTERS_BEHIND.iter().filter(|_| topology.behind.is_some());
    ROLES.iter().chain(routers).chain(behind).copied()
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep
            && let Err(why) = registry::down(&self.id)
        {
            eprintln!("lab {} is not quite gone: {why:#}", self.id);
        }
    }
}
