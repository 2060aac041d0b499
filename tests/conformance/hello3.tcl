
# Appended by tests/conformance/run.sh: with --force-resp3 every client greets by HELLO 3. One that the server does not
# let (it has to authenticate first) goes on with RESP2.
rename valkey connect_in_resp2
proc valkey {args} {
    set client [connect_in_resp2 {*}$args]
    if {$::force_resp3} {
        set id $::valkey::id
        set fd $::valkey::fd($id)
        set raw $::valkey::readraw($id)
        set ::valkey::readraw($id) 0
        puts -nonewline $fd "*2\r\n\$5\r\nHELLO\r\n\$1\r\n3\r\n"
        flush $fd
        catch {::valkey::valkey_read_reply $id $fd}
        catch {set ::valkey::readraw($id) $raw}
    }
    return $client
}
