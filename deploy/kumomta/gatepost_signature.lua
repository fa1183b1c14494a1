-- Verifies the header in which gatepost signs who sent a request (`upstream.signature`; docs/signature.md).
--
--   local signature = require 'gatepost_signature'
--   local key, fault = signature.verify(
--     { ['2026-11'] = { key_data = '...' } },          -- key id to key source; both keys while they are changed
--     value,                                           -- of the header
--     { method = 'POST', path = '/api/inject/v1', client = '192.0.2.1', identity = 'scott' },
--     os.time(), 60)                                   -- now, and how far the signature's time may lie from it, in seconds
--
-- gives the id of the key, or nil and the reason. Whoever serves HTTP on the MTA's side hands the values in; KumoMTA's handlers see
-- no request headers, so for them gatepost_signed.lua takes the values from a bearer token.

local kumo = require 'kumo'

local M = {}

function M.verify(keys, value, request, now, tolerance)
  local id, time, mac = value:match '^v1;key=([%w%._-]+);time=(%d+);mac=([0-9a-f]+)$'
  if not id or #mac ~= 64 or #time > 15 or (#time > 1 and time:sub(1, 1) == '0') then
    return nil, 'the signature is malformed'
  end
  local key = keys[id]
  if not key then
    return nil, "the signature's key is unknown"
  end
  local text = table.concat({
    'gatepost-v1',
    id,
    time,
    request.method,
    request.path,
    request.client,
    request.identity,
  }, '\n')
  local expected = kumo.digest.hmac_sha256(key, text).hex
  -- Compared as MACs of both, so that the time does not tell how much was right.
  local function again(it)
    return kumo.digest.hmac_sha256(key, it).hex
  end
  if again(expected) ~= again(mac) then
    return nil, 'the signature is wrong'
  end
  if math.abs(now - tonumber(time)) > tolerance then
    return nil, "the signature's time is too far from now"
  end
  return id
end

return M
