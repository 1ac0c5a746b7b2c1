//! Settings from the environment. An empty one counts as unset; an invalid one stops the start.

use std::{
    collections::HashMap, env, fs, io::ErrorKind, os::unix::ffi::OsStringExt, str::FromStr,
    sync::OnceLock, time::Duration,
};

use tollgate::{
    ClientAddress, ForwardedHeader,
    network::{self, IpNet},
};

use super::{StartError, env_file};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
const TEN_YEARS: Duration = Duration::from_secs(3_650 * 86_400);

/// The settings from a file, if one was read.
static FILE: OnceLock<HashMap<String, String>> = OnceLock::new();

/// Reads settings from a file in the working folder, if there is one; the environment takes
/// precedence. Call it first.
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

/// A limit, or `default`. Zero stops the start, because a quota of zero would still admit one
/// request.
pub(crate) fn limit(name: &str, default: u32) -> Result<u32, StartError> {
    match setting(name, default)? {
        0 => Err(format!("{name}: is 0, and at least 1 must be admitted").into()),
        limit => Ok(limit),
    }
}

/// The lifetime of tokens, as a number of `unit`s, or `default`: from a second to the ten years
/// that tokens and logins take.
pub(crate) fn lifetime(name: &str, default: u32, unit: Duration) -> Result<Duration, StartError> {
    let number: u32 = setting(name, default)?;
    match unit.checked_mul(number) {
        Some(lifetime) if (SECOND..=TEN_YEARS).contains(&lifetime) => Ok(lifetime),
        _ => Err(format!("{name}: 1 second to 3,650 days").into()),
    }
}

/// An optional setting.
pub(crate) fn optional(name: &str) -> Result<Option<String>, StartError> {
    match env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(env::VarError::NotPresent) => Ok(of_file(name).filter(|text| !text.is_empty())),
        // The error itself repeats the text, which may be a secret.
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name}: is no UTF-8").into()),
    }
}

/// A secret, as raw bytes.
pub(crate) fn secret(name: &str) -> Option<Vec<u8>> {
    let of_process = env::var_os(name).map(OsStringExt::into_vec);
    of_process.or_else(|| of_file(name).map(String::into_bytes))
}

/// `TRUSTED_PROXIES`: comma-separated networks whose `X-Forwarded-For` is trusted; none unless set.
pub(crate) fn client_address() -> Result<ClientAddress, StartError> {
    client_address_by(ForwardedHeader::XForwardedFor)
}

/// The same, with another header.
pub(crate) fn client_address_by(header: ForwardedHeader) -> Result<ClientAddress, StartError> {
    Ok(ClientAddress::peer().trusting(trusted_proxies()?, header))
}

/// The networks themselves.
pub(super) fn trusted_proxies() -> Result<Vec<IpNet>, StartError> {
    let text = optional("TRUSTED_PROXIES")?.unwrap_or_default();
    let networks = network::parse_list(&text);
    let networks = networks.map_err(|error| format!("TRUSTED_PROXIES: {error}"))?;
    if networks.iter().any(|network| network.prefix_len() == 0) {
        return Err("TRUSTED_PROXIES: trusts every address".into());
    }
    Ok(networks)
}
