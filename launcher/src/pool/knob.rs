//! What root may set: written to sysfs, read back, and what follows from it said.

use super::{Paths, Problem, State};
use greenboost_contract::format_size;
use std::fs::OpenOptions;
use std::io::{self, Write};

/// A setting of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knob {
    /// Memory kept ready.
    Reserve,
    /// The most that is handed out in all.
    PoolLimit,
    /// The most for one user.
    UserLimit,
    /// The most through one open file.
    FileLimit,
}

impl Knob {
    /// The name of its file.
    pub fn file(self) -> &'static str {
        match self {
            Self::Reserve => "reserve_bytes",
            Self::PoolLimit => "pool_limit_bytes",
            Self::UserLimit => "user_limit_bytes",
            Self::FileLimit => "file_limit_bytes",
        }
    }

    /// What it is called.
    fn name(self) -> &'static str {
        self.file().trim_end_matches("_bytes")
    }

    /// Its option when the module is loaded, which is in MiB.
    fn option(self) -> &'static str {
        match self {
            Self::Reserve => "reserve_mb",
            Self::PoolLimit => "pool_mb",
            Self::UserLimit => "user_mb",
            Self::FileLimit => "file_mb",
        }
    }

    fn value(self, state: &State) -> u64 {
        match self {
            Self::Reserve => state.reserve_bytes,
            Self::PoolLimit => state.pool_limit_bytes,
            Self::UserLimit => state.user_limit_bytes,
            Self::FileLimit => state.file_limit_bytes,
        }
    }

    /// What the setting has come to, in lines: what it is now, what stands in its way, and how to make it last.
    pub fn outcome(self, state: &State, asked: u64) -> Vec<String> {
        let now = self.value(state);
        let mut lines = vec![match self {
            Self::Reserve => {
                format!("reserve: {} wanted, {} ready", format_size(now), format_size(state.reserve_ready_bytes))
            }
            _ => format!("{}: {}", self.name(), format_size(now)),
        }];
        if now != asked {
            lines.push(format!("asked for {}: what is kept is whole pages of 2 MiB", format_size(asked)));
        }
        lines.extend(match self {
            Self::Reserve => reserve_hindrance(state),
            _ => limit_hindrance(self, state),
        });
        lines.push(format!(
            "This holds until the module is unloaded. For good: `options greenboost {}={}` in \
             /etc/modprobe.d/greenboost.conf",
            self.option(),
            now >> 20
        ));
        lines
    }
}

fn reserve_hindrance(state: &State) -> Option<String> {
    let (wanted, ready) = (state.reserve_bytes, state.reserve_ready_bytes);
    let room = state.pool_limit_bytes.saturating_sub(state.pool_used_bytes);
    if ready >= wanted {
        None
    } else if state.ram_level != "ok" {
        Some(format!("the level is {}: the reserve is filled again when it is ok", state.ram_level))
    } else if wanted > room {
        Some(format!(
            "the pool's limit leaves room for {}: raise it with `greenboost pool limit`, or keep less",
            format_size(room)
        ))
    } else {
        Some("it is being filled in the background; `greenboost pool` shows how far it is".to_owned())
    }
}

fn limit_hindrance(knob: Knob, state: &State) -> Option<String> {
    let limit = knob.value(state);
    if knob == Knob::PoolLimit && state.pool_used_bytes > limit {
        return Some(format!(
            "{} are in use, which is more: nothing is taken away, and nothing new is given until it is less",
            format_size(state.pool_used_bytes)
        ));
    }
    // A limit that is raised alone helps nobody whom a smaller one stops first.
    let smallest = state.pool_limit_bytes.min(state.user_limit_bytes).min(state.file_limit_bytes);
    (smallest < limit).then(|| {
        format!(
            "one program still gets {} at most: the limits are pool {}, user {}, file {} (`--of`)",
            format_size(smallest),
            format_size(state.pool_limit_bytes),
            format_size(state.user_limit_bytes),
            format_size(state.file_limit_bytes)
        )
    })
}

/// Sets a knob to `bytes`, and answers with the state after that.
///
/// # Errors
/// [`Problem::NotLoaded`], [`Problem::NotRoot`], [`Problem::Refused`]; and those of [`State::read`].
pub fn set(paths: &Paths, knob: Knob, bytes: u64) -> Result<State, Problem> {
    let path = paths.sysfs.join(knob.file());
    // No `create`: what is not there is not the module's.
    let written = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .and_then(|mut file| file.write_all(bytes.to_string().as_bytes()));
    match written {
        Ok(()) => State::read(paths),
        Err(error) => Err(match error.kind() {
            _ if !paths.sysfs.exists() => Problem::NotLoaded { path: paths.sysfs.clone() },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Problem::NotRoot { path },
            io::ErrorKind::InvalidInput => Problem::Refused { name: knob.name(), bytes, source: error },
            _ => Problem::Unreadable { path, reason: error.to_string() },
        }),
    }
}
