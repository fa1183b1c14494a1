-- For a KumoMTA behind gatepost with `upstream.identity: basic` (KumoMTA 2026.03 and later).
--
-- gatepost authenticates as the user `gatepost` with the password SECRET:IDENTITY. This handler knows it by the secret and
-- answers with the identity, so that the `http_auth` meta of each message holds it. Put these lines into init.lua, or
-- `require` this file from it. gatepost's own address must not be in the listener's `trusted_hosts`: a trusted host needs no
-- credentials, and whoever reaches the port from there would be believed without any.

local kumo = require 'kumo'

local SECRET_FILE = os.getenv 'GATEPOST_SECRET_FILE'
  or '/opt/kumomta/etc/gatepost.secret'

-- Line ends at the end of the file are not part of the secret, for gatepost neither.
local function secret()
  return (kumo.secrets.load(SECRET_FILE):gsub('[\r\n]+$', ''))
end

-- Equal in a time that does not tell how much was right: what is compared are MACs of both.
local function same(key, a, b)
  local function mac(text)
    return kumo.digest.hmac_sha256({ key_data = key }, text).hex
  end
  return mac(a) == mac(b)
end

kumo.on('http_server_validate_auth_basic', function(user, password)
  if user ~= 'gatepost' or not password then
    return false
  end
  local known = secret()
  local given = password:sub(1, #known)
  local colon = password:sub(#known + 1, #known + 1)
  local identity = password:sub(#known + 2)
  if #known < 16 or not same(known, given, known) or colon ~= ':' or identity == '' then
    return false
  end
  return {
    identities = { { identity = identity, context = 'HttpBasicAuth' } },
    groups = {},
  }
end)
