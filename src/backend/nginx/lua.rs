//! Lua in nginx: can this nginx balance by it, and the exchange with the program that does.
//!
//! Owns the question (a configuration of nothing but the user's modules and ours, checked in a folder of its own, so that
//! asking writes nothing that anybody could see), and the two requests with a generation's secret. The secret is read from
//! the generation's folder each time and goes nowhere else: no message holds it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::actions::essence;
use super::binary::Binary;
use super::main_config::LuaBasis;
use crate::observed::GenerationId;
use crate::render::{ENDPOINTS_PATH, TRIM, endpoints};

/// How long one exchange may take: a megabyte, taken apart once.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More is not our answer.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
const SECRET_HEADER: &str = "X-Reeve-Secret";

/// A new secret, as the file that nginx includes: whoever does not send it gets 403.
///
/// # Errors
/// The system's.
pub fn secret_file() -> std::io::Result<String> {
    use std::fmt::Write;
    use std::io::Read;
    let mut bytes = [0_u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let secret = bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to memory cannot fail.
        let (Ok(()) | Err(_)) = write!(text, "{byte:02x}");
        text
    });
    Ok(format!("if ($http_x_reeve_secret != \"{secret}\") {{\n    return 403;\n}}\n"))
}

/// Reads it back from there.
fn secret(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let secret = text.split('"').nth(1).filter(|secret| secret.bytes().all(|byte| byte.is_ascii_hexdigit()));
    secret.map(str::to_owned).ok_or_else(|| format!("{} was edited", file.display()))
}

/// Can this nginx balance by Lua? `Err`: why not, in words.
///
/// # Errors
/// (The outer one.) nginx could not be run.
pub async fn works(binary: &Binary, basis: &LuaBasis) -> Result<Result<(), String>, String> {
    if let Some(taken) = &basis.taken {
        return Ok(Err(format!("{taken} is in use there already, and nginx takes it only once")));
    }
    let folder = tempfile::Builder::new()
        .prefix("reeve-lua-")
        .tempdir()
        .map_err(|error| format!("cannot make a folder to see whether nginx has Lua: {error}"))?;
    let place = folder.path().display();
    let main: String = basis.main.iter().map(|line| format!("{line}\n")).collect();
    let http: String = basis.http.iter().map(|line| format!("    {line}\n")).collect();
    let text = format!(
        "{main}pid {place}/pid;\nerror_log stderr;\nevents {{ }}\nhttp {{\n    access_log off;\n{http}    \
         lua_malloc_trim {TRIM};\n    lua_shared_dict reeve_check 64k;\n    \
         init_by_lua_block {{ assert(require(\"ngx.balancer\").set_current_peer) }}\n    \
         upstream reeve_check {{ server 0.0.0.1; balancer_by_lua_block {{ return }} keepalive 1; }}\n    \
         server {{\n        listen unix:{place}/socket;\n        log_by_lua_block {{ return }}\n        location / {{\n            \
         set_by_lua_block $reeve_empty {{ return \"\" }}\n            if ($reeve_empty) {{ return 503; }}\n            \
         proxy_pass http://reeve_check;\n        }}\n    }}\n}}\n"
    );
    let config = folder.path().join("nginx.conf");
    std::fs::write(&config, text).map_err(|error| format!("cannot write {}: {error}", config.display()))?;
    let outcome = binary.check(&config).await?;
    if outcome.success {
        return Ok(Ok(()));
    }
    let said = essence(&outcome.output);
    let first = said.lines().next().unwrap_or("nginx refuses it").trim_start_matches("nginx: [emerg] ");
    let first = first.split(&format!(" in {place}")).next().unwrap_or(first).to_owned();
    Ok(Err(match first.starts_with("unknown directive \"lua_") {
        true => {
            "nginx has no Lua module loaded (Debian: install libnginx-mod-http-lua, and load the module)".to_owned()
        }
        false => first,
    }))
}

/// An answer of the program.
pub struct Exchanged {
    pub status: u16,
    pub body: String,
}

/// Sends the endpoints to the running nginx. `folder`: the generation's, with the secret.
///
/// # Errors
/// In words, without the secret.
pub async fn push(probe: SocketAddr, secret_file: &Path, text: &str) -> Result<Exchanged, String> {
    let secret = secret(secret_file)?;
    exchange(probe, "POST", &secret, text).await
}

/// Asks for the endpoints in force, and whose they are.
///
/// # Errors
/// As `push`. `None`: nginx does not take the secret that is on disk.
pub async fn in_force(
    probe: SocketAddr,
    secret_file: &Path,
    of: &GenerationId,
) -> Result<Option<(String, endpoints::Endpoints)>, String> {
    let Ok(secret) = secret(secret_file) else { return Ok(None) };
    let answer = exchange(probe, "GET", &secret, "").await?;
    if answer.status == 403 {
        return Ok(None);
    }
    let unreadable = || format!("nginx does not tell which endpoints it has (status {})", answer.status);
    let (id, text) = answer.body.split_once('\n').filter(|_| answer.status == 200).ok_or_else(unreadable)?;
    if id != of.to_string() {
        return Err(format!("another generation ({id}) answered for the endpoints of {of}"));
    }
    if text.is_empty() {
        return Ok(Some((endpoints::NONE.to_owned(), endpoints::Endpoints::new())));
    }
    endpoints::parse(text).map(Some).ok_or_else(unreadable)
}

async fn exchange(probe: SocketAddr, method: &str, secret: &str, body: &str) -> Result<Exchanged, String> {
    // In one piece: nginx would begin with the head, and then wait for the body.
    let request = format!(
        "{method} {ENDPOINTS_PATH} HTTP/1.0\r\nHost: reeve-probe\r\n{SECRET_HEADER}: {secret}\r\nContent-Length: {}\r\n\r\n\
         {body}",
        body.len()
    );
    let talk = async {
        let mut stream = TcpStream::connect(probe).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = tokio::time::timeout(TIMEOUT, talk)
        .await
        .map_err(|_| format!("nginx did not answer within {} s on {probe}", TIMEOUT.as_secs()))?
        .map_err(|error| format!("nginx cannot be reached on {probe}: {error}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("{probe} answers something else than nginx"))?;
    Ok(Exchanged { status, body: body.to_owned() })
}
