//! A PostgreSQL server of the tests' own: a private process on a socket in a temporary folder,
//! started by the first test that asks, and gone with the process of the tests, however that ends.

#![allow(dead_code, reason = "whoever starts a server needs a part of it")]

use std::{
    env, fs,
    io::{self, Write},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// When the tests' process has ended, its end of the pipe is closed: then the server ends too.
const WATCH: &str = r#"
"$1"/postgres -D "$2"/data -k "$2" -h '' -p 5432 -N 300 $3 >"$2"/log 2>&1 &
server=$!
cat >/dev/null
kill -QUIT $server
wait $server
rm -rf "$2"
"#;

/// Tests don't pull the plug: what they need of a disk is that it is fast.
const FAST: &str = "-c fsync=off -c full_page_writes=off -c autovacuum=off";

pub(crate) struct Server {
    folder: PathBuf,
    /// Its standard input is held open for as long as this process lives.
    _watch: Child,
}

/// A fresh database on the server; `None`, having said so, where there is no PostgreSQL. With
/// `TOLLGATE_TEST_SERVERS=required` that is a failure.
pub(crate) async fn database() -> Option<PgConnectOptions> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = SERVER.get_or_init(|| Server::start(FAST)).as_ref()?;
    let name = format!("law_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Some(server.create_database(&name).await)
}

pub(crate) async fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .connect_with(options)
        .await
        .unwrap()
}

impl Server {
    /// `settings` are arguments of `postgres`.
    pub(crate) fn start(settings: &str) -> Option<Self> {
        let Some(binaries) = binaries() else {
            let required = env::var("TOLLGATE_TEST_SERVERS").is_ok_and(|value| value == "required");
            assert!(
                !required,
                "there is no PostgreSQL, and the tests require it"
            );
            let _ = writeln!(io::stderr(), "SKIPPED: there is no PostgreSQL");
            return None;
        };
        let folder = tempfile::Builder::new()
            .prefix("tollgate-pg-")
            .tempdir()
            .unwrap();
        let folder = folder.keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let user = other_user();
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let made = as_user(Command::new(binaries.join("initdb")), user)
            .args([
                "-U",
                "tollgate",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(folder.join("data"))
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let watch = as_user(Command::new("sh"), user)
            .args(["-c", WATCH, "sh"])
            .arg(binaries)
            .arg(&folder)
            .arg(settings)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self {
            folder,
            _watch: watch,
        })
    }

    /// Where its socket is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Another program of the same version.
    pub(crate) fn binary(name: &str) -> Option<PathBuf> {
        binaries().map(|folder| folder.join(name))
    }

    pub(crate) fn options(&self, database: &str) -> PgConnectOptions {
        options(&self.folder, database)
    }

    async fn connect(&self) -> PgConnection {
        for _ in 0..200 {
            if let Ok(connection) = PgConnection::connect_with(&self.options("postgres")).await {
                return connection;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("PostgreSQL does not start: {log}");
    }

    pub(crate) async fn create_database(&self, name: &str) -> PgConnectOptions {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        self.options(name)
    }
}

pub(crate) fn options(socket: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new()
        .socket(socket)
        .port(5432)
        .username("tollgate")
        .database(database)
}

/// The newest there is.
fn binaries() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = env::split_paths(&path).collect();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<_> = versions.flatten().map(|version| version.path()).collect();
        versions.sort();
        found.extend(
            versions
                .into_iter()
                .rev()
                .map(|version| version.join("bin")),
        );
    }
    found
        .into_iter()
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

/// PostgreSQL refuses to run as root.
fn other_user() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self")
        .map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
        .unwrap_or_default();
    if !is_root {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let is_wanted = fields.next() == Some(name);
            let ids = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            is_wanted.then_some(ids)
        })
    };
    find("postgres").or_else(|| find("nobody"))
}

fn as_user(mut command: Command, user: Option<(u32, u32)>) -> Command {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}
