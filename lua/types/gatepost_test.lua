---@meta gatepost.test

---@class gatepost.test
local test = {}

---@class gatepost.test.Answer
---@field outcome 'accepted'|'rejected'|'failed'|'timed_out'|'no_handler'|'overloaded'|'refused'
---@field identity? string
---@field groups? string[]
---@field reason? string

---@class gatepost.test.Request
---@field user? string
---@field password? string
---@field bearer? string
---@field missing_password? 'nil'

---@class gatepost.test.Policy
local policy = {}
---Sends credentials as a request would.
---@param request gatepost.test.Request
---@return gatepost.test.Answer
function policy:request(request) end

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
