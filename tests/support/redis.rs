//! A Redis server of a test's own: on a free port, in a folder of its own, gone with the test.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);
const ATTEMPTS: usize = 5;
const PORTS_TRIED: usize = 100;
const SETTINGS: &str = "redis.conf";

/// A running server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    _folder: TempDir,
}

impl RedisServer {
    /// Starts one. Where there is no `redis-server` the test says so and is skipped, unless
    /// `TOLLGATE_TEST_SERVERS=required`.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// With more arguments on its command line, in which `{port}` is its port.
    pub(crate) fn start_with(arguments: &[&str]) -> Option<Self> {
        Self::start_from(None, arguments)
    }

    /// A sentinel that calls that server `main`. Two of them can replace it.
    pub(crate) fn start_sentinel(of: &Self) -> Option<Self> {
        let port = of.port;
        let settings = format!(
            "sentinel monitor main 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 2000\n"
        );
        Self::start_from(Some(&settings), &["--sentinel"])
    }

    fn start_from(settings: Option<&str>, arguments: &[&str]) -> Option<Self> {
        let found = Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        if found.is_err() {
            let required =
                std::env::var_os("TOLLGATE_TEST_SERVERS").is_some_and(|it| it == "required");
            assert!(!required, "redis-server is required, and not here");
            eprintln!("skipped: no redis-server on this machine");
            return None;
        }
        // Somebody may take the port between its choice and the server's start.
        let started = (0..ATTEMPTS).find_map(|_| Self::on(free_port(), settings, arguments));
        Some(started.expect("redis-server starts"))
    }

    fn on(port: u16, settings: Option<&str>, arguments: &[&str]) -> Option<Self> {
        let folder = TempDir::new().expect("a temporary folder");
        let ported = |it: &&str| it.replace("{port}", &port.to_string());
        let mut arguments: Vec<_> = arguments.iter().map(ported).collect();
        if let Some(settings) = settings {
            std::fs::write(folder.path().join(SETTINGS), settings).expect("a file");
            arguments.insert(0, SETTINGS.to_owned());
        }
        let child = spawn(port, folder.path(), &arguments);
        let mut server = Self {
            child,
            port,
            arguments,
            _folder: folder,
        };
        server.is_ready().then_some(server)
    }

    fn is_ready(&mut self) -> bool {
        let mut waited = Duration::ZERO;
        while waited < READY_WITHIN {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(PAUSE);
            waited = waited.saturating_add(PAUSE);
        }
        false
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// SIGKILL: its memory is lost.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts again on the same port, after [`kill`](Self::kill).
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, self._folder.path(), &self.arguments);
        assert!(self.is_ready(), "redis-server starts again");
    }

    /// SIGSTOP: it keeps its connections and answers nobody.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid])
            .status();
        assert!(sent.is_ok_and(|sent| sent.success()), "SIG{name}");
    }
}

fn spawn(port: u16, folder: &std::path::Path, arguments: &[String]) -> Child {
    // A file comes first.
    let (file, arguments) = match arguments {
        [file, arguments @ ..] if file == SETTINGS => (Some(file), arguments),
        arguments => (None, arguments),
    };
    Command::new("redis-server")
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server starts")
}

/// The nodes of a cluster speak to each other on a port that is larger by 10,000.
fn free_port() -> u16 {
    let any = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        Some(listener.local_addr().ok()?.port())
    };
    std::iter::repeat_with(any)
        .flatten()
        .take(PORTS_TRIED)
        .find(|port| *port <= u16::MAX - 10_000)
        .expect("a free port")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
