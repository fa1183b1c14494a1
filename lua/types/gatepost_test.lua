---@meta gatepost.test

---@class gatepost.test
local test = {}

---@class gatepost.test.Answer
---@field outcome 'accepted'|'rejected'|'failed'|'timed_out'|'no_handler'|'overloaded'|'refused'
---@field identity? string
---@field groups? string[]
---@field reason? string
---@field code? integer                 of kumo.reject, for a message
---@field text? string
---@field meta? table<string, string>   what the handler set, for a message that is accepted

---@class gatepost.test.Request
---@field user? string
---@field password? string
---@field bearer? string
---@field missing_password? 'nil'

---@class gatepost.test.Message
---@field user? string              without it, the request comes from a trusted host
---@field groups? string|string[]
---@field sender? string            without it, the null sender
---@field recipients string|string[]
---@field from? string|string[]     the addresses of From, which is made of them
---@field headers? table<string, string|string[]>
---@field received_from? string     an IP address, 127.0.0.1 by default

---@class gatepost.test.Policy
local policy = {}
---Sends credentials as a request would.
---@param request gatepost.test.Request
---@return gatepost.test.Answer
function policy:request(request) end
---Shows a message to the handler of `http_message_generated`, as a request with such a body would.
---@param message gatepost.test.Message
---@return gatepost.test.Answer
function policy:message(message) end

---@param path string relative to the test file's folder
---@return gatepost.test.Policy
function test.policy(path) end

---@param name string
---@param body fun()
function test.case(name, body) end

---@param answer gatepost.test.Answer
---@param identity? string
---@param message? string
function test.allows(answer, identity, message) end
---@param answer gatepost.test.Answer
---@param message? string
function test.denies(answer, message) end
---@param answer gatepost.test.Answer
---@param message? string
function test.accepts(answer, message) end
---@param answer gatepost.test.Answer
---@param code? integer
---@param text? string
---@param message? string
function test.rejects(answer, code, text, message) end
---@param answer gatepost.test.Answer
---@param message? string
function test.fails(answer, message) end
---@param answer gatepost.test.Answer
---@param message? string
function test.refuses(answer, message) end
---@param answer gatepost.test.Answer
---@param group string
---@param message? string
function test.in_group(answer, group, message) end
---@param got any
---@param wanted any
---@param message? string
function test.equal(got, wanted, message) end
---@param value any
---@param message? string
function test.truthy(value, message) end
---@param body fun()
---@param pattern? string
---@param message? string
function test.raises(body, pattern, message) end

return test
