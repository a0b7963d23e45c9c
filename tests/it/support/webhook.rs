//! The sender's side of Standard Webhooks.

use base64::{prelude::BASE64_STANDARD, Engine};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A message to be signed: change a field to make it a bad one.
#[derive(Debug, Clone)]
pub struct Message {
    /// `webhook-id`
    pub id: String,
    /// `webhook-timestamp`, seconds since 1970.
    pub timestamp: u64,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// A message of now with a fresh id.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        let id = format!("msg_{:032x}", rand::random::<u128>());
        Self { id, timestamp: super::now_ms() / 1000, body: body.into() }
    }

    /// `v1,<base64 HMAC-SHA256>` with the secret's bytes.
    pub fn signature(&self, key: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(format!("{}.{}.", self.id, self.timestamp).as_bytes());
        mac.update(&self.body);
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }

    /// The signed POST.
    pub fn request(&self, client: &reqwest::Client, url: &str, key: &[u8]) -> reqwest::RequestBuilder {
        client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", &self.id)
            .header("webhook-timestamp", self.timestamp.to_string())
            .header("webhook-signature", self.signature(key))
            .body(self.body.clone())
    }
}
