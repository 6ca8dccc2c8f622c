-- POST products, each with a code of its own: the prefix is this script's argument.
local prefix, number

function init(args)
  prefix, number = args[1], 0
end

function request()
  number = number + 1
  local body = '{"code": "' .. prefix .. number .. '", "name": "Fender", "price": "19.90"}'
  return wrk.format("POST", "/products", { ["Content-Type"] = "application/json" }, body)
end
