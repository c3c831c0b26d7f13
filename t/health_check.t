# health_check: what it does to traffic, where it may stand, and what nginx -t says to mistakes.
use strict;
use warnings;
use lib 't/lib';
use File::Temp ();
use IO::Socket::IP;
use Sluice::Backends;
use Sluice::Run;
use Test::More;

my $b = backends(3);
my ($one, $two, $three) = map { '127.0.0.1:' . $b->port($_) } 1 .. 3;
my $log = 'error_log logs/error.log notice;';
my $match = 'match ok { status 200; json $.checks.database.status = ok; }';

# answers($port, $path, $count): how many came from each backend, and `502` and the like.
sub answers {
    my ($port, $path, $count) = @_;
    my %from;
    for (1 .. $count) {
        my $answer = get($port, $path);
        $from{ status_of($answer) == 200 ? body_of($answer) : status_of($answer) }++;
    }
    return \%from;
}

# Every balancer, with and without a zone: the sick server gets nothing from any worker, and its share when it is back.
{
    my @ways = ('', 'least_conn;', 'hash $request_id;', 'hash $request_id consistent;', 'random;', 'random two;', 'keepalive 4;', 'least_conn; keepalive 4;');
    my (@paths, $http);
    my $port = free_port();
    for my $zone ('', 'zone Z 64k;') {
        for my $way (@ways) {
            my $name = 'g' . @paths;
            (my $own = $zone) =~ s/Z/$name/;
            $http .= "upstream $name { $own $way server $one; server $two; server $three; health_check interval=100ms uri=/health match=ok; }\n";
            push @paths, [ $name, $zone ? "zone, $way" : $way || 'round robin' ];
        }
    }
    my $locations = join '', map {"location /$_->[0] { proxy_pass http://$_->[0]; }\n"} @paths;
    my $gateway = gateway(main => $log, workers => 2, http => "$match\n$http server { listen 127.0.0.1:$port; $locations }");

    $b->sick(2);
    my $sick = "upstream server $two is unhealthy: json \$.checks.database.status: wanted = \"ok\", got \"fail\", upstream";
    ok wait_until(5, sub { my $n = () = $gateway->log =~ /\Q$sick\E/g; $n == @paths }), 'one line for each group, with the reason';
    for (@paths) {
        my $from = answers($port, "/$_->[0]", 16);
        ok !$from->{2} && $from->{1} && $from->{3} && $from->{1} + $from->{3} == 16, "sick server gets nothing: $_->[1]" or diag explain $from;
    }
    $b->well_again(2);
    ok wait_until(5, sub { my $n = () = $gateway->log =~ /upstream server \Q$two\E is healthy, upstream/g; $n == @paths }), 'and when it is back';
    for (@paths) {
        ok wait_until(5, sub { answers($port, "/$_->[0]", 4)->{2} }), "healthy server has its share: $_->[1]";
    }
    my %seen;
    /upstream "(g\d+)"/ && $seen{$1}++ for grep {/unhealthy/} split /\n/, $gateway->log;
    is_deeply [ grep { $_ != 1 } values %seen ], [], 'a change is logged once, by one worker';
    ok $gateway->quit, 'quit';
    unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log';
}

# Groups of one, of backups, of servers that are down; ip_hash; several checks; names and headers; single process.
{
    my $port    = free_port();
    my $gateway = gateway(main => "$log master_process off;", http => <<"EOT");
        $match
        upstream single   { server $one; health_check interval=100ms uri=/health match=ok; }
        upstream backup   { zone backup 64k; server $one; server $two backup; health_check interval=100ms uri=/health match=ok; }
        upstream sick     { server $one backup; server $two down; server $three; health_check uri=/health?sick interval=100ms match=ok; }
        upstream iphash   { ip_hash; server $one; server $two; health_check interval=100ms uri=/health match=ok; }
        upstream both     { server $one; server $three; health_check interval=100ms uri=/health; health_check interval=100ms uri=/no-such port=1; }
        upstream fine     { server $three; health_check uri=/health?fine interval=100ms host=name.test method=HEAD mandatory match=two; health_check_header X-Probe "a b"; }
        upstream later    { server $three; health_check uri=/health?later interval=1h; }
        match two { status 200; }
        server {
            listen 127.0.0.1:$port;
            location /single { proxy_pass http://single; }
            location /backup { proxy_pass http://backup; }
            location /sick { proxy_pass http://sick; }
            location /iphash { proxy_pass http://iphash; }
            location /both { proxy_pass http://both; }
            location /fine { proxy_pass http://fine; }
            location /later { proxy_pass http://later; }
        }
EOT
    is_deeply answers($port, '/single', 2), { 1 => 2 }, 'one server';
    $b->sick(1);
    ok wait_until(5, sub { answers($port, '/single', 1)->{502} }), 'the only server is out: 502';
    ok wait_until(5, sub { answers($port, '/backup', 1)->{2} }), 'the backup serves';
    ok wait_until(5, sub { my $from = answers($port, '/iphash', 4); ($from->{2} || 0) == 4 }), 'ip_hash moves on';
    ok wait_until(5, sub { my $from = answers($port, '/both', 4); ($from->{502} || 0) == 4 }), 'each of several checks must hold';
    $b->sick(2);
    ok wait_until(5, sub { answers($port, '/backup', 1)->{502} }), 'backups are checked too';
    $b->well_again($_) for 1, 2;
    ok wait_until(5, sub { my $from = answers($port, '/backup', 4); ($from->{1} || 0) == 4 }), 'the primary is back';
    ok wait_until(5, sub { grep {m{HEAD /health\?fine name\.test a b$}} $b->probes(3) }), 'host, method and headers are sent' or diag $b->probes(3);
    ok wait_until(5, sub { (answers($port, '/fine', 1)->{3} || 0) == 1 }), 'mandatory: traffic after the first pass';
    is scalar(grep {/sick/} $b->probes(2)), 0, 'a server that is down by configuration is not probed';
    ok((grep {/GET \/health\?sick sick/} $b->probes(3)), 'Host is the name of the group');
    is scalar(grep {/later/} $b->probes(3)), 1, 'the first probe is at once';
    ok $gateway->quit, 'a single process quits';
}

# In locations: every kind of pass, named locations, before and after the pass, an upstream that comes later.
{
    my $port    = free_port();
    my $gateway = gateway(main => $log, http => <<"EOT");
        server {
            listen 127.0.0.1:$port;
            location \@check { health_check interval=100ms uri=/health?named match=ok; proxy_pass http://named; }
            location /named { proxy_pass http://named; }
            location /var { set \$group named; proxy_pass http://\$group; }
            location /g { grpc_pass g; health_check interval=100ms uri=/health?grpc; }
            location /f { health_check interval=100ms uri=/health?fastcgi; fastcgi_pass f; }
            location /u { uwsgi_pass u; health_check interval=100ms uri=/health?uwsgi; }
            location /s { scgi_pass s; location /s/t { scgi_pass s; health_check interval=100ms uri=/health?scgi; } }
            location /m { set \$memcached_key k; memcached_pass m; health_check interval=100ms uri=/health?memcached; }
        }
        upstream named { server $one; server $two; }
        upstream g { server $one; }
        upstream f { server $one; }
        upstream u { server $one; }
        upstream s { server $one; }
        upstream m { server $one; }
        $match
EOT
    for my $kind (qw(named grpc fastcgi uwsgi scgi memcached)) {
        ok wait_until(5, sub { grep {/\?$kind /} $b->probes(1) }), "$kind: probed";
    }
    $b->sick(1);
    for my $path ('/named', '/var') {
        ok wait_until(5, sub { my $from = answers($port, $path, 4); ($from->{2} || 0) == 4 }), "$path: out";
    }
    $b->well_again(1);
    ok $gateway->quit, 'quit';
}

# Over IPv6 and unix sockets; a new server must pass each of several mandatory checks.
{
    my ($port, $six) = (free_port(), free_port());
    my $has_six = IO::Socket::IP->new(LocalHost => '::1', Listen => 1);
    my $listen  = $has_six ? "listen [::1]:$six;" : '';
    my $dir     = File::Temp::tempdir(CLEANUP => 1);
    chmod 0755, $dir;
    my $socket  = "unix:$dir/odd.sock";
    my $odd     = backend(server => "$listen listen $socket; root html; location = /health { access_log logs/probes; try_files /sick /well =503; } location / { return 200 odd; }");
    my $file    = sub { Sluice::Run::spew("$odd->{dir}/html/$_[0]", $_[1]) };
    $file->(well => 'ok');
    my %group   = (sock => "server $socket;", both => "server $socket; health_check interval=100ms uri=/nothing mandatory match=gone;", $has_six ? (six => "server [::1]:$six;") : ());
    my $gateway = gateway(main => $log, http => 'match well { status 200; body ~ ok; } match gone { status 404; }'
            . join('', map {"upstream $_ { $group{$_} health_check interval=100ms uri=/health mandatory match=well; }\n"} sort keys %group)
            . "server { listen 127.0.0.1:$port; " . join('', map {"location /$_ { proxy_pass http://$_; }"} keys %group) . '}');
    for my $name (grep { $_ ne 'both' } sort keys %group) {
        my $at = $name eq 'six' ? "[::1]:$six" : $socket;
        ok wait_until(5, sub { status_of(get($port, "/$name")) == 200 }), "$name: served once it has passed";
        my $since = length $gateway->log;
        $file->(sick => 'no');
        ok wait_until(5, sub { substr($gateway->log, $since) =~ /server \Q$at\E is unhealthy: body: .* upstream "$name"/ }), "$name: out" or diag $gateway->log;
        is status_of(get($port, "/$name")), 502, "$name: nobody is left";
        unlink "$odd->{dir}/html/sick";
    }
    ok wait_until(5, sub { $gateway->log =~ /is unhealthy: status: .* upstream "both"/ }), 'both: one of two mandatory checks fails from the start' or diag $gateway->log;
    is status_of(get($port, '/both')), 502, 'and the other is not enough';
    ok $gateway->quit, 'quit';
    diag 'this machine has no IPv6, nothing was checked over it' if !$has_six;
}

# Several checks of one server: the log and the events tell what becomes of the server, not of each check.
{
    my $port = free_port();
    my $two  = backend(server => 'root html; location = /a { if (-f $document_root/sick-a) { return 503; } return 204; } location = /b { if (-f $document_root/sick-b) { return 503; } return 204; } location / { return 200 two; }');
    my ($sick, $well) = (sub { Sluice::Run::spew("$two->{dir}/html/sick-$_", 'x') for @_ }, sub { unlink "$two->{dir}/html/sick-$_" for @_ });
    my $gateway = gateway(main => 'error_log logs/error.log info;', http => "upstream u { server 127.0.0.1:$two->{port}; " . join(' ', map {"health_check interval=50ms jitter=0 uri=/$_;"} qw(a b)) . " } server { listen 127.0.0.1:$port; location / { proxy_pass http://u; } location /api { api; } }");
    my $lines = sub { join ' ', $gateway->log =~ /\[notice\].* upstream server \S+ is (\w+)/g };
    my $alone = sub { scalar(() = $gateway->log =~ /\[info\].* is $_[0] by check "http:\/$_[1]" alone: /g) };
    $sick->('a');
    ok wait_until(5, sub { $lines->() eq 'unhealthy' }), 'one check fails: the server is out' or diag $gateway->log;
    $sick->('b');
    ok wait_until(5, sub { $alone->('unhealthy', 'b') }), 'the other one too: that changes nothing' or diag $gateway->log;
    $well->('a');
    ok wait_until(5, sub { $alone->('up', 'a') }), 'nor does it that the first one passes';
    is status_of(get($port, '/')), 502, 'the server is out';
    $well->('b');
    ok wait_until(5, sub { $lines->() eq 'unhealthy healthy' }), 'back, when both pass' or diag $gateway->log;
    ok wait_until(5, sub { status_of(get($port, '/')) == 200 }), 'and served';
    my $events = body_of(get($port, '/api/9/events'));
    is join(' ', $events =~ /"kind":"health".*?"to":"(\w+)"/g), 'unhealthy up', 'so say the events';
    like body_of(get($port, '/api/9/http/upstreams/u')), qr/"unhealthy":1\b/, 'it was unhealthy once';
    ok $gateway->quit, 'quit';
}

# In a location probes are sent as its requests are, as far as those do not depend on a client: as in NGINX Plus, and as its
# Ingress Controller has it. A level with headers of its own inherits none.
{
    my $port  = free_port();
    my $vhost = backend(server => 'location / { return 200 ok; } location /echo { set $probe -; if ($http_x_probe) { set $probe $http_x_probe; } set $rest "$http_x_client-$http_content_length-$http_connection"; return 200 "$http_host $probe $rest"; }');
    my $gateway = gateway(main => $log, http => <<"EOT");
match ok { status 200; body ~ "cafe.example.com once --close"; }
match own { status 200; body ~ "own.example.com twice --close"; }
match top { status 200; body ~ "top.example.com - --close"; }
proxy_set_header Host top.example.com;
upstream nic { zone nic 64k; server 127.0.0.1:$vhost->{port}; }
upstream said { zone said 64k; server 127.0.0.1:$vhost->{port}; }
upstream above { zone above 64k; server 127.0.0.1:$vhost->{port}; }
server {
    listen 127.0.0.1:$port;
    location \@nic {
        proxy_set_header Host "cafe.example.com"; proxy_set_header X-Probe once; proxy_set_header X-Client \$remote_addr;
        proxy_set_header Accept-Encoding gzip; proxy_set_header Connection close; proxy_set_header Content-Length 7;
        proxy_pass http://nic; health_check interval=100ms mandatory match=ok uri=/echo;
    }
    location \@said {
        proxy_set_header Host cafe.example.com; proxy_set_header X-Probe once;
        proxy_pass http://said; health_check interval=100ms mandatory match=own uri=/echo host=own.example.com; health_check_header x-probe twice;
    }
    location \@above { proxy_pass http://above; health_check interval=100ms mandatory match=top uri=/echo; }
    location / { proxy_pass http://nic; }
    location /said { proxy_pass http://said/; }
    location /above { proxy_pass http://above/; }
}
EOT
    ok wait_until(5, sub { status_of(get($port, $_)) == 200 }), "$_: passes" or diag $gateway->log for '/', '/said', '/above';
    ok $gateway->quit, 'quit';
}

# fails= and passes=: verdicts in a row. Probes are counted by the backend.
{
    my $port    = free_port();
    my $gateway = gateway(main => $log, workers => 2, http => "upstream u { server $one; health_check interval=100ms uri=/health?count fails=3 passes=2 match=ok; } $match\n"
            . "server { listen 127.0.0.1:$port; location / { proxy_pass http://u; } }");
    my $probes = sub { scalar grep {/\?count/} $b->probes(1) };
    ok wait_until(5, sub { $probes->() > 1 }), 'it is probed';
    my $before = $probes->();
    $b->sick(1);
    ok wait_until(5, sub { $gateway->log =~ /unhealthy/ }), 'out';
    cmp_ok $probes->() - $before, '>=', 3, 'after three failures at least';
    cmp_ok $probes->() - $before, '<=', 5, 'and not many more';
    $before = $probes->();
    $b->well_again(1);
    ok wait_until(5, sub { $gateway->log =~ /is healthy/ }), 'back';
    cmp_ok $probes->() - $before, '>=', 2, 'after two passes at least';
    $gateway->quit;
}

# Mistakes: nginx -t names what is wrong, and where.
my $u = sub {"upstream u {\nserver 127.0.0.1:1;\n$_[0]\n}"};
my $l = sub {"upstream u { server 127.0.0.1:1; } server {\nlocation / {\n$_[0]\n} }"};
for my $row (
    [ $u->('health_check interval=0;'),              'invalid value "0" of "interval", a time from 10ms to 1d expected' ],
    [ $u->('health_check interval=abc;'),            'invalid value "abc" of "interval"' ],
    [ $u->('health_check interval;'),                'invalid value "" of "interval"' ],
    [ $u->('health_check timeout=0;'),               'invalid value "0" of "timeout"' ],
    [ $u->('health_check jitter=-1s;'),              'invalid value "-1s" of "jitter"' ],
    [ $u->('health_check fails=0;'),                 'invalid value "0" of "fails", a whole number from 1 to 1000000 expected' ],
    [ $u->('health_check passes=many;'),             'invalid value "many" of "passes"' ],
    [ $u->('health_check port=0;'),                  'invalid value "0" of "port", a port from 1 to 65535 expected' ],
    [ $u->('health_check port=65536;'),              'invalid value "65536" of "port"' ],
    [ $u->('health_check uri=health;'),              'invalid value "health" of "uri", a path beginning with "/" expected' ],
    [ $u->('health_check "uri=/a b";'),              'invalid uri "/a b"' ],
    [ $u->('health_check "method=A B";'),            'invalid method "A B"' ],
    [ $u->("health_check 'host=a\nb';\n"),           'invalid host', 4 ],
    [ $u->('health_check persistent;'),              '"persistent" without "mandatory"' ],
    [ $u->('health_check mandatory=yes;'),           'invalid value "yes" of "mandatory"' ],
    [ $u->('health_check interval=1s interval=2s;'), 'duplicate parameter "interval"' ],
    [ $u->('health_check no_such=1;'),               'unknown parameter "no_such=1"' ],
    [ $u->('health_check match=nobody;'),            '"health_check" directive has unknown match "nobody"' ],
    [ $u->('health_check_header A b;'),              '"health_check_header" directive has no "health_check" in its block' ],
    [ $u->('health_check_header "A b" c;'),          'invalid header name "A b"' ],
    [ $u->('health_check_header Connection c;'),     'header "Connection" cannot be set' ],
    [ $u->('health_check_header A;'),                'invalid number of arguments in "health_check_header"' ],
    [ $l->('health_check;'),                         'found no "proxy_pass" or the like' ],
    [ $l->('health_check; set $x u; proxy_pass http://$x;'), 'found no "proxy_pass" or the like' ],
    [ $l->('health_check; proxy_pass http://127.0.0.1:2;'),  'needs an "upstream" block, and "127.0.0.1" is none' ],
    [ "server {\n\nhealth_check;\n}",                '"health_check" directive is not allowed here' ],
    [ "sluice_zone 32k;\nupstream u { " . join('', map { "server 127.0.0.1:$_;" } 1 .. 300) . "\nhealth_check; }", '"sluice_zone" of 32k is too small', 4 ],
) {
    my ($text, $message, $later) = @$row;
    my ($status, $said) = nginx_t(http => "\n$text");
    # Nine lines of nginx_t's own come before `text`, which has its mistake in the third, or LATER.
    my $line = 9 + ($later // 3);
    (my $shown = substr $text, 0, 200) =~ s/\s+/ /g;
    ok $status != 0 && $said =~ /\[emerg\].*\Q$message\E.* in \S+nginx\.conf:$line$/ms, $shown or diag "$status: $said";
}

# What NGINX Plus configurations say is accepted as it is.
my ($status, $said) = nginx_t(http => <<'EOT');
    upstream u { zone u 64k; server 127.0.0.1:1; }
    match m { status ! 500-599; }
    server { location @hc-u { proxy_pass http://u;
        health_check uri=/ port=8080 interval=5s jitter=0s fails=1 passes=1 match=m mandatory persistent keepalive_time=60s; } }
    server { location / { proxy_pass http://u; health_check; health_check interval=10 type=http; health_check persistent mandatory scheme=http; } }
EOT
is $status, 0, 'the line that NGINX Plus users write' or diag $said;

done_testing;
