# Connects to the nodes that join names, such as ["web*@hosta.local"], whenever the epmd of this host knows one.
defmodule EpmdCluster do
  use Task, restart: :permanent

  def start_link(join), do: Task.start_link(fn -> subscribe(join) end)

  defp subscribe(join) do
    port = String.to_integer(System.get_env("ERL_EPMD_PORT", "4369"))
    with {:ok, socket} <- :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false, buffer: 65_536]) do
      :gen_tcp.send(socket, <<1::16, "W">>)
      read(join, socket, :gen_tcp.recv(socket, 4)) # its port; then lines
      :gen_tcp.close(socket)
    end
    Process.sleep(1_000)
    subscribe(join)
  end

  defp read(_, _, {:error, _}), do: :epmd_has_gone
  defp read(join, socket, {:ok, line}) do
    join(join, for(field <- String.split(line), [key, value] <- [String.split(field, "=", parts: 2)], into: %{}, do: {key, value}))
    :inet.setopts(socket, packet: :line)
    read(join, socket, :gen_tcp.recv(socket, 0))
  end

  defp join(join, fields) do
    with %{"type" => "normal", "node" => node} when not is_map_key(fields, "sure") <- fields, node = URI.decode(node),
         true <- Enum.any?(join, &(node =~ ~r/^#{String.replace(Regex.escape(&1), "\\*", "[^@]*")}\z/u)),
         do: spawn(Node, :connect, [String.to_atom(node)])
  end
end
