-- Takes away what a policy has no business with: starting programs, changing files, native and compiled
-- code, ending the process. Runs once, before the policy; `...` is the policy's folder, the
-- logger, the maker of stand-ins for modules that do not exist here, the reader of source files, what an asynchronous
-- function yields while it waits, whether the call's time is over, and whether requests are served by now. Returns the table of
-- globals that the policy gets.

local folder, log, stand_in, read_source, waiting, out_of_time, is_serving = ...
local error, load, pairs, select, tostring, type = error, load, pairs, select, tostring, type
local rawequal, rawget, setmetatable = rawequal, rawget, setmetatable
local concat, open, lines = table.concat, io.open, io.lines
local search = package.searchpath

-- Compiled chunks are not checked by Lua and can break it, so only text is loaded.
function _G.load(chunk, name, _, ...)
  if select('#', ...) > 0 then
    return load(chunk, name, 't', ...)
  end
  return load(chunk, name, 't')
end

local function load_file(path)
  local text, reason = read_source(path)
  if not text then
    return nil, reason
  end
  return load(text, '@' .. path, 't')
end

-- An asynchronous function waits by yielding a mark to whoever resumed it. Inside of a coroutine that the policy made, that is
-- the policy: without this, `coroutine.wrap(function() return gatepost.password.verify(...) end)()` gives the mark, which is
-- true, for a wrong password. So a resume that gets the mark hands it on, until it reaches the worker, and asks again.
local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local close, status = coroutine.close, coroutine.status
local function relay(thread, good, first, ...)
  if good and rawequal(first, waiting) then
    return relay(thread, resume(thread, yield(first)))
  end
  return good, first, ...
end
local function resume_in_time(thread, ...)
  -- The hook ends one coroutine after the other. A policy that makes a new one for each that ended would keep it busy.
  if out_of_time() then
    error('the call took too long', 0)
  end
  return relay(thread, resume(thread, ...))
end
coroutine.resume = resume_in_time
local function results(thread, good, ...)
  if good then
    return ...
  end
  if status(thread) == 'dead' then
    close(thread)
  end
  error((...), 0)
end
function coroutine.wrap(body)
  local thread = create(body)
  return function(...)
    return results(thread, resume_in_time(thread, ...))
  end
end

-- Calls take turns in one state, so a global that one of them sets is seen by the others: with `who = user`, a `local` forgotten,
-- one client would get the name of another. What is set while the policy loads is the policy's own and stays.
local real, globals = _G, {}
local rawset = rawset
local function assign(key, value)
  if is_serving() then
    error("the global '" .. tostring(key) .. "' is set while requests are served; write 'local' before it", 3)
  end
  real[key] = value
end
setmetatable(globals, {
  __index = real,
  __newindex = function(_, key, value)
    assign(key, value)
  end,
  __pairs = function()
    return pairs(real)
  end,
})
function real.rawset(table, key, value)
  if rawequal(table, globals) then
    assign(key, value)
    return globals
  end
  return rawset(table, key, value)
end
-- Lua turns hooks off while it runs a finalizer, so nothing could end one that loops.
function real.setmetatable(value, meta)
  if type(meta) == 'table' and rawget(meta, '__gc') ~= nil then
    error("'__gc' is not available here", 2)
  end
  if rawequal(value, globals) then
    setmetatable(real, meta)
    return globals
  end
  return setmetatable(value, meta)
end
local getmetatable = getmetatable
function real.getmetatable(value)
  return getmetatable(rawequal(value, globals) and real or value)
end

local function absolute(path)
  if folder == '' or path:sub(1, 1) == '/' then
    return path
  end
  return folder .. '/' .. path
end

function _G.dofile(path)
  if type(path) ~= 'string' then
    error("bad argument #1 to 'dofile' (string expected, got " .. type(path) .. ')', 2)
  end
  local chunk, reason = load_file(absolute(path))
  if not chunk then
    error(reason, 2)
  end
  return chunk()
end
_G.loadfile = nil

function _G.print(...)
  local words = {}
  for index = 1, select('#', ...) do
    words[index] = tostring((select(index, ...)))
  end
  log(concat(words, '\t'))
end

local collect = collectgarbage
function _G.collectgarbage(what)
  if what ~= 'count' then
    error("collectgarbage takes nothing but 'count' here", 2)
  end
  return collect('count')
end

string.dump = nil

_G.os = {
  clock = os.clock,
  date = os.date,
  difftime = os.difftime,
  getenv = os.getenv,
  time = os.time,
}

local function reading(mode)
  return mode == nil or mode == 'r' or mode == 'rb'
end

_G.io = {
  lines = function(path, ...)
    if type(path) ~= 'string' then
      error("bad argument #1 to 'io.lines' (string expected, got " .. type(path) .. ')', 2)
    end
    return lines(path, ...)
  end,
  open = function(path, mode)
    if not reading(mode) then
      error("io.open opens files for reading only ('r' or 'rb')", 2)
    end
    return open(path, mode)
  end,
  type = io.type,
}

-- The policy's folder first; no native modules, no compiled ones.
local here = folder == '' and '.' or folder
local old = package
local loaded, preload = old.loaded, old.preload
_G.package = {
  config = old.config,
  loaded = old.loaded,
  path = here .. '/?.lua;' .. here .. '/?/init.lua',
  preload = old.preload,
  searchpath = search,
}
local function find(name)
  local path, tried = search(name, package.path)
  if not path then
    if name:find('^policy%-extras%.') then
      return function()
        return stand_in(name)
      end
    end
    return tried
  end
  local chunk, reason = load_file(path)
  if not chunk then
    error("cannot load module '" .. name .. "': " .. reason, 0)
  end
  return chunk, path
end
-- Lua's own is a C function, through which nothing can wait: a module that asks a database while it loads would raise. It reads the
-- original tables, whatever the policy makes of those that it sees.
function real.require(name)
  if type(name) ~= 'string' then
    error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ')', 2)
  end
  if loaded[name] then
    return loaded[name]
  end
  local loader, extra = preload[name], ':preload:'
  if loader == nil then
    loader, extra = find(name)
  end
  if type(loader) ~= 'function' then
    error("module '" .. name .. "' not found:\n\t" .. tostring(loader), 2)
  end
  local value = loader(name, extra)
  if value ~= nil then
    loaded[name] = value
  elseif loaded[name] == nil then
    loaded[name] = true
  end
  return loaded[name], extra
end
for key in pairs(old) do
  if key ~= 'loaded' and key ~= 'preload' then
    old[key] = nil
  end
end
old.loaded.package = package
old.loaded.os = os
old.loaded.io = io

real._G = globals
old.loaded._G = globals
return globals
