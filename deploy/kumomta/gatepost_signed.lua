-- For a KumoMTA behind gatepost with `upstream.identity: bearer` (KumoMTA 2026.03 and later).
--
-- gatepost signs who sent a request and sends that as a bearer token; this handler verifies it with gatepost_signature.lua, which has to
-- be beside it, and answers with the identity, so that the `http_auth` meta of each message holds it. Nothing that would be good for another
-- request, or a minute later, goes over the wire. Put these lines into init.lua, or `require` this file from it. gatepost's own address
-- must not be in the listener's `trusted_hosts`.

local kumo = require 'kumo'
local signature = require 'gatepost_signature'

-- The ids of `upstream.signature.keys`, each with its file; both keys while they are changed.
local KEYS = {
  ['2026-11'] = os.getenv 'GATEPOST_KEY_FILE' or '/opt/kumomta/etc/gatepost.key',
}

-- How far gatepost's clock may be from this one, in seconds. KumoMTA itself takes what it has accepted for another minute.
local TOLERANCE = 60

-- Line ends at the end of the file are not part of the secret, for gatepost neither.
local function keys()
  local loaded = {}
  for id, file in pairs(KEYS) do
    local secret = kumo.secrets.load(file):gsub('[\r\n]+$', '')
    if #secret >= 16 then
      loaded[id] = { key_data = secret }
    end
  end
  return loaded
end

kumo.on('http_server_validate_auth_bearer', function(token)
  local readable, text = pcall(kumo.encode.base64url_nopad_decode, token)
  if not readable then
    return false
  end
  local value, method, path, client, identity =
    text:match '^([^\n]+)\n([^\n]+)\n([^\n]+)\n([^\n]+)\n([^\n]+)$'
  if not value then
    return false
  end
  local request = { method = method, path = path, client = client, identity = identity }
  local key, fault = signature.verify(keys(), value, request, os.time(), TOLERANCE)
  if not key then
    kumo.log_warn('a token of gatepost: ' .. fault)
    return false
  end
  return {
    identities = { { identity = identity, context = 'BearerToken' } },
    groups = {},
  }
end)
