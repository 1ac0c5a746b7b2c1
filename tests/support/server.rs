//! The built example as a child process: started on a folder, stopped, killed, never left behind.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    ops::Deref,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::Client;

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// The signing secret that servers get here unless a test says otherwise.
pub(crate) const SECRET: &str = "a blackbox secret of 40 bytes, all ASCII";

/// The folder a server keeps its data in. It outlives the server, so that another can start on it.
#[derive(Debug)]
pub(crate) struct Home {
    example: &'static str,
    folder: TempDir,
}

impl Home {
    /// An empty folder for that example.
    pub(crate) fn of(example: &'static str) -> Self {
        Self {
            example,
            folder: TempDir::new().expect("a temporary folder"),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn start(&self) -> Server {
        self.launch().start().await
    }

    pub(crate) fn launch(&self) -> Launch {
        let mut command = Command::new(binary(self.example));
        command
            .env_clear()
            .current_dir(self.path())
            .env("HOST", "127.0.0.1")
            .env("PORT", "0")
            .env("JWT_SECRET", SECRET)
            .env(
                "DATABASE_URL",
                format!("sqlite:{}", self.path().join("p.db").display()),
            )
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for kept in ["PATH", "LLVM_PROFILE_FILE", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        Launch { command }
    }
}

/// `target/<profile>/examples/<example>`, found from `target/<profile>/deps/<this test>`.
fn binary(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("target/<profile>");
    let binary = profile.join("examples").join(example);
    assert!(
        binary.is_file(),
        "{} is missing: cargo build --example {example} --all-features",
        binary.display()
    );
    binary
}

/// A server about to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    command: Command,
}

impl Launch {
    pub(crate) fn env(self, name: &str, value: &str) -> Self {
        self.env_bytes(name, value.as_bytes())
    }

    /// A setting that need not be text.
    pub(crate) fn env_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.command.env(name, OsStr::from_bytes(value));
        self
    }

    /// Arguments of the command line.
    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// On a disk that has no room for a file of more than so many blocks, of 512 bytes each or of
    /// 1,024.
    pub(crate) fn on_a_small_disk(self, blocks: u32) -> Self {
        self.within(&format!("trap '' XFSZ; ulimit -f {blocks}"))
    }

    /// With so many descriptors, of files and connections together.
    pub(crate) fn with_descriptors(self, most: u32) -> Self {
        self.within(&format!("ulimit -n {most}"))
    }

    /// In a shell that sets a limit first.
    fn within(self, limit: &str) -> Self {
        let limited = format!("{limit}; exec \"$0\"");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(limited)
            .arg(self.command.get_program());
        command.env_clear();
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        if let Some(folder) = self.command.get_current_dir() {
            command.current_dir(folder);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self { command }
    }

    /// For a command that ends by itself: waits for its end.
    pub(crate) async fn run(self) -> Ended {
        let (mut process, _) = self.spawn();
        process.wait().await
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// A command of the example's instead of serving.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// For a command: what it printed, when it has ended well.
    pub(crate) async fn printed(self) -> String {
        let (mut process, _) = self.spawn();
        let ended = process.wait().await;
        assert_eq!(ended.code, Some(0), "it said:\n{}", ended.stderr);
        ended.stdout.trim_end().to_owned()
    }

    /// No rate limit that a test under load would meet.
    pub(crate) fn unhurried(self) -> Self {
        self.env("KEY_RATE_LIMIT_PER_MINUTE", "1000000")
            .env("IP_RATE_LIMIT_PER_MINUTE", "1000000")
    }

    /// Waits for the line that says where the server listens.
    pub(crate) async fn start(self) -> Server {
        let (mut process, first_line) = self.spawn();
        let line = match timeout(READY_WITHIN, first_line).await {
            Ok(Ok(line)) => line,
            outcome => {
                let ended = process.end().await;
                panic!(
                    "no server ({outcome:?}), it said:\n{}{}",
                    ended.stdout, ended.stderr
                );
            }
        };
        let address = line
            .trim_end()
            .strip_prefix("listening on http://")
            .and_then(|address| address.parse::<SocketAddr>().ok())
            .unwrap_or_else(|| panic!("not the line that was agreed: {line:?}"));
        assert_ne!(address.port(), 0, "the port that was picked is named");
        Server {
            process,
            client: Client::new(address),
        }
    }

    /// For a configuration that has to be refused: waits for the process to end by itself.
    pub(crate) async fn refused(self) -> Ended {
        let (mut process, _) = self.spawn();
        let ended = process.wait().await;
        assert!(
            ended.code.is_some_and(|code| code != 0),
            "started or crashed: {ended:?}"
        );
        ended
    }

    /// For one that gets no further: waits until it has logged `words`, and kills it.
    pub(crate) async fn says(self, words: &str) -> Ended {
        let (mut process, _) = self.spawn();
        let deadline = Instant::now() + READY_WITHIN;
        while !process.stderr.text().contains(words) {
            let said = process.stderr.text();
            assert!(Instant::now() < deadline, "no {words:?} in:\n{said}");
            sleep(Duration::from_millis(10)).await;
        }
        process.end().await
    }

    fn spawn(mut self) -> (Process, oneshot::Receiver<String>) {
        let mut child = self.command.spawn().expect("the server starts");
        let (sender, first_line) = oneshot::channel();
        let stdout = Output::collect(child.stdout.take().expect("stdout"), Some(sender));
        let stderr = Output::collect(child.stderr.take().expect("stderr"), None);
        (
            Process {
                child,
                stdout,
                stderr,
            },
            first_line,
        )
    }
}

/// A running server, and a client for it. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    client: Client,
}

impl Server {
    /// SIGTERM, and an exit that must be clean.
    pub(crate) async fn stop(self) -> Ended {
        self.signal("TERM");
        self.ended().await
    }

    /// Sends a signal, by the name it has without `SIG`, and waits for nothing.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.child.id().to_string();
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "SIG{name} to {pid}"
        );
    }

    /// Waits for a server that was told to stop, and whose exit must be clean.
    pub(crate) async fn ended(mut self) -> Ended {
        let ended = self.process.wait().await;
        assert_eq!(
            ended.code,
            Some(0),
            "told to stop, having said:\n{}",
            ended.stderr
        );
        ended
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.process.end().await;
    }
}

impl Deref for Server {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// What is left of a server. A panic in it is a failure of whatever test looks.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn without_panic(&self) {
        let panic = self
            .stderr
            .lines()
            .find(|line| line.contains("panicked at"));
        assert_eq!(panic, None, "the server panicked:\n{}", self.stderr);
    }
}

#[derive(Debug)]
struct Process {
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Process {
    /// Waits for the end of the process, then for the last of its output.
    async fn wait(&mut self) -> Ended {
        let deadline = Instant::now() + STOPPED_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                while !(self.stdout.is_complete() && self.stderr.is_complete()) {
                    assert!(Instant::now() < deadline, "output goes on after the end");
                    sleep(Duration::from_millis(10)).await;
                }
                return Ended {
                    code: status.code(),
                    stdout: self.stdout.text(),
                    stderr: self.stderr.text(),
                };
            }
            assert!(
                Instant::now() < deadline,
                "still running after {STOPPED_WITHIN:?}, having said:\n{}",
                self.stderr.text()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(&mut self) -> Ended {
        // An error here says that it has ended by itself.
        let _ = self.child.kill();
        self.wait().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything a stream of the child has said, up to a bound.
#[derive(Debug)]
struct Output {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Output {
    fn collect(
        source: impl Read + Send + 'static,
        mut first_line: Option<oneshot::Sender<String>>,
    ) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                let said = String::from_utf8_lossy(&line).into_owned();
                if let Ok(mut text) = shared.lock()
                    && text.len() < OUTPUT_BYTES_MAX
                {
                    text.push_str(&said);
                }
                if let Some(sender) = first_line.take() {
                    // Nobody waits any more when the launch was given up.
                    let _ = sender.send(said);
                }
                line.clear();
            }
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        self.text.lock().expect("the reader does not panic").clone()
    }

    fn is_complete(&self) -> bool {
        self.reader.is_finished()
    }
}
