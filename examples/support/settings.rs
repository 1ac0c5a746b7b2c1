//! Settings from the environment. An empty one is one that isn't set; one that can't be read stops the start.

use std::{
    collections::HashMap, env, fs, io::ErrorKind, os::unix::ffi::OsStringExt, str::FromStr,
    sync::OnceLock,
};

use tollgate::{
    ClientAddress, ForwardedHeader,
    network::{self, IpNet},
};

use super::{StartError, env_file};

/// What a file says, where one was read.
static FILE: OnceLock<HashMap<String, String>> = OnceLock::new();

/// Settings from a file of the working folder, if there is one; the process's own outweigh them. Call it first.
pub(crate) fn read_env_file(name: &str) -> Result<(), StartError> {
    match fs::read_to_string(name) {
        Ok(text) => {
            let _first = FILE.set(env_file::parse(&text));
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{name}: {error}").into()),
    }
}

fn of_file(name: &str) -> Option<String> {
    FILE.get().and_then(|settings| settings.get(name)).cloned()
}

/// A setting, or `default`.
pub(crate) fn setting<T: FromStr>(name: &str, default: T) -> Result<T, StartError>
where
    T::Err: std::fmt::Display,
{
    match optional(name)? {
        Some(text) => {
            let parsed = text.trim().parse();
            parsed.map_err(|error| format!("{name}: {error}").into())
        }
        None => Ok(default),
    }
}

/// How often something may be done, or `default`. A quota of nothing would admit one all the same: it stops the start.
pub(crate) fn limit(name: &str, default: u32) -> Result<u32, StartError> {
    match setting(name, default)? {
        0 => Err(format!("{name}: is 0, and at least 1 must be admitted").into()),
        limit => Ok(limit),
    }
}

/// A setting that may be missing.
pub(crate) fn optional(name: &str) -> Result<Option<String>, StartError> {
    match env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(env::VarError::NotPresent) => Ok(of_file(name).filter(|text| !text.is_empty())),
        // The error itself repeats the text, and so perhaps a secret.
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name}: is no UTF-8").into()),
    }
}

/// A secret, as the bytes that it is, whatever they are.
pub(crate) fn secret(name: &str) -> Option<Vec<u8>> {
    let of_process = env::var_os(name).map(OsStringExt::into_vec);
    of_process.or_else(|| of_file(name).map(String::into_bytes))
}

/// `TRUSTED_PROXIES`: comma-separated networks whose `X-Forwarded-For` is believed; none unless set.
pub(crate) fn client_address() -> Result<ClientAddress, StartError> {
    client_address_by(ForwardedHeader::XForwardedFor)
}

/// The same, by another header.
pub(crate) fn client_address_by(header: ForwardedHeader) -> Result<ClientAddress, StartError> {
    Ok(ClientAddress::peer().trusting(trusted_proxies()?, header))
}

/// The networks themselves.
pub(super) fn trusted_proxies() -> Result<Vec<IpNet>, StartError> {
    let text = optional("TRUSTED_PROXIES")?.unwrap_or_default();
    let networks = text
        .split(',')
        .map(str::trim)
        .filter(|network| !network.is_empty());
    let networks: Result<Vec<_>, _> = networks.map(network::parse).collect();
    networks.map_err(|error| format!("TRUSTED_PROXIES: {error}").into())
}
