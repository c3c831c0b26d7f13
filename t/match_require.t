# match with require: nginx's variables after a probe, in a location and in an upstream.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Test::More;

my $log     = 'error_log logs/error.log notice;';
my $backend = backend(server => 'location / { add_header X-Load $arg_load; add_header X-Tag a; add_header X-Tag b; return 201 here; } location /no { return 503; }');
my $address = "127.0.0.1:$backend->{port}";

# All the variables of nginx's core and of the modules that are always there: none may mind that there is no client.
my @core = qw(
    http_host http_user_agent http_x http_referer http_via http_x_forwarded_for http_cookie content_length content_type host binary_remote_addr remote_addr
    remote_port proxy_protocol_addr proxy_protocol_port proxy_protocol_server_addr proxy_protocol_server_port server_addr server_port server_protocol
    scheme https request_uri uri document_uri request document_root realpath_root query_string args is_args request_filename server_name request_method
    remote_user bytes_sent body_bytes_sent pipe request_completion request_body request_body_file request_length request_time request_id status
    sent_http_content_type sent_http_content_length sent_http_location sent_http_last_modified sent_http_connection sent_http_keep_alive
    sent_http_transfer_encoding sent_http_cache_control sent_http_link sent_http_x sent_trailer_x limit_rate connection connection_requests connection_time
    nginx_version hostname pid msec time_iso8601 time_local tcpinfo_rtt tcpinfo_rttvar tcpinfo_snd_cwnd tcpinfo_rcv_space arg_x cookie_x http_name
    upstream_addr upstream_status upstream_connect_time upstream_header_time upstream_response_time upstream_response_length upstream_bytes_received
    upstream_bytes_sent upstream_http_x_load upstream_trailer_x upstream_cookie_x upstream_cache_status upstream_cache_last_modified upstream_cache_etag
    proxy_host proxy_port proxy_add_x_forwarded_for proxy_internal_body_length fastcgi_script_name fastcgi_path_info gzip_ratio invalid_referer memcached_key
    ssl_protocol ssl_cipher ssl_client_verify ssl_server_name ssl_session_id http2 secure_link secure_link_expires slice_range uid_got uid_set
    limit_req_status limit_conn_status date_local date_gmt modern_browser ancient_browser msie split geoed realip_remote_addr realip_remote_port
    rate_limit_status rate_limit_zone rate_limit_limit rate_limit_remaining rate_limit_reset rate_limit_source circuit_breaker_state
    circuit_breaker_retry_after gateway_time upstream_time
);
# Some builds lack some modules: nginx names one unknown variable at a time.
my @all = @core;
while (1) {
    my $everything = join '|', map {"\${$_}"} @all;
    my (undef, $said) = nginx_t(http => "map \"$everything\" \$everything { default 1; } match m { require \$everything; } split_clients \$request_id \$split { * 1; } geo \$geoed { default 1; }");
    my ($unknown) = $said =~ /unknown "(\w+)" variable/ or last;
    @all = grep { $_ ne $unknown } @all;
}
cmp_ok scalar(@all), '>', 100, 'variables to look at: ' . @all;
my $everything = join '|', map {"\${$_}"} @all;

# [ lines of match, what the check asks ], and what is wrong.
my %checks = (
    status      => [ 'require $created;' ],
    header      => [ 'status 201; require $upstream_http_x_load $light;', 'uri=/?load=0.5' ],
    all         => [ 'require $everything;' ],
    address     => [ 'require $here;' ],
    zero        => [ 'require $upstream_http_x_load;', 'uri=/?load=0', 'require $upstream_http_x_load: wanted a value that is not empty and not "0", got "0"' ],
    missing     => [ 'require $created $upstream_http_no_such;', '', 'require $upstream_http_no_such: wanted a value that is not empty and not "0", got ""' ],
    other       => [ 'require $created;', 'uri=/no', 'require $created: wanted a value that is not empty and not "0", got "0"' ],
    heavy       => [ 'require $light;', 'uri=/?load=0.95', 'require $light: wanted a value that is not empty and not "0", got "0"' ],
    lines_first => [ 'require $created; status 200;', '', 'status: wanted 200, got 201' ],
    client      => [ 'require $http_host $remote_user;', '', 'require $http_host: wanted' ],
    rewritten   => [ 'require $set_later;', '', 'require $set_later: wanted' ],
);
my $http = <<"EOT";
    map \$upstream_status \$created { default 0; 201 1; }
    map \$upstream_http_x_load \$light { default 0; "~^0\\.[0-8]" 1; }
    map \$upstream_addr \$here { default 0; $address 1; }
    map "$everything" \$everything { volatile; default 1; }
    split_clients \$request_id \$split { * 1; }
    geo \$geoed { default 1; }
EOT
my $places = '';
for my $name (sort keys %checks) {
    my ($lines, $params) = @{ $checks{$name} };
    my $check = 'health_check mandatory interval=100ms match=' . $name . ' ' . ($params || '') . ';';
    $http .= "match $name { $lines }\nupstream u_$name { server $address; $check }\nupstream l_$name { server $address; }\n";
    $places .= "location \@$name { proxy_pass http://l_$name; $check }\n";
}
my $port = free_port();
my $gateway = gateway(main => $log, workers => 2, http => "$http server { listen 127.0.0.1:$port; $places location / { set \$set_later 1; return 200; } }");
for my $name (sort keys %checks) {
    my $said = $checks{$name}[2] ? "is unhealthy: $checks{$name}[2]" : 'is healthy';
    for my $group ("u_$name", "l_$name") {
        ok wait_until(10, sub { $gateway->log =~ /upstream server \S+ \Q$said\E.*, upstream "$group"/ }), "$group: $said"
            or diag grep {/"$group"/} split /^/, $gateway->log;
    }
}
is status_of(get($port, '/')), 200, 'it serves';
ok $gateway->quit, 'quit';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]/, 'nothing bad in the log' or diag grep {/emerg|alert|crit/} split /^/, $gateway->log;

# Mistakes.
for my $row (
    [ 'match m { require; }',                         'invalid number of arguments in "require" directive' ],
    [ 'match m { require ok; }',                      'invalid variable "ok" in "require"' ],
    [ 'match m { require $a$b; }',                    'invalid variable "$a$b" in "require"' ],
    [ 'match m { status 200; any { require $pid; } }', '"require" cannot stand inside a group in match "m"' ],
    [ 'match m { require $no_such_variable; }',       'unknown "no_such_variable" variable' ],
    [ 'match m { require $pid; } upstream u { server 127.0.0.1:1; health_check match=m; }', 'has a match with "require", which needs a "server" block' ],
) {
    my ($text, $message) = @$row;
    my ($status, $said) = nginx_t(http => $text);
    ok $status != 0 && $said =~ /\[emerg\].*\Q$message\E/, $text or diag "$status: $said";
}

done_testing;
